// The page: sends orders, and shows each clip as the server tells it. The server knows everything; nothing here is worth keeping.

const byId = (id) => document.getElementById(id);
const form = byId("wish");
const STATES = {
  waiting: "waiting", submitted: "in the queue", processing: "in the making", saving: "saving", ready: "ready", failed: "failed", unknown: "not known",
};
const cards = new Map(); // by order

// One wish, one order: its word stays the same until the server has answered, so that a double click, a reload or a broken
// connection never buys twice. Another wish is another order.
let wish = JSON.parse(sessionStorage.wish ?? "{}");
Object.entries(wish.fields ?? {}).forEach(([name, value]) => { form.elements[name].value = value; });

function forgetWish() {
  wish = {};
  sessionStorage.removeItem("wish");
}

form.addEventListener("input", forgetWish);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData(form);
  wish.order ??= Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (!body.get("picture").size) {
    body.delete("picture"); // one that was chosen does not outlive a reload, and so neither does the wish
    sessionStorage.wish = JSON.stringify({ ...wish, fields: Object.fromEntries(body) });
  }
  body.set("order", wish.order);
  byId("problem").textContent = "";
  try {
    const answer = await fetch("orders", { method: "POST", body });
    const said = await answer.json();
    if (answer.ok) {
      forgetWish();
      form.reset();
      if (!cards.has(said.order)) show(said); // else the stream of events was faster, and knows more
    } else {
      byId("problem").textContent = typeof said.detail === "string" ? said.detail : "Something is missing.";
    }
  } catch {
    byId("problem").textContent = "No answer. Press the button again: it is one order, and never bought twice.";
  }
});

function duration(seconds) {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours > 47) return `${Math.floor(hours / 24)} days`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.max(0, Math.floor(seconds))} s`;
}

function tick(card) {
  const { state, usual, begun } = card.clip;
  const age = duration((performance.now() - begun) / 1000);
  const estimate = usual > 30 && state === "processing" ? `, usually about ${duration(usual)}` : "";
  card.querySelector(".time").textContent = ["ready", "failed", "unknown"].includes(state) ? `${age} ago` : `for ${age}${estimate}`;
}

function screen(clip) {
  if (clip.state !== "ready") return Object.assign(document.createElement("span"), { className: "still" });
  return Object.assign(document.createElement("video"), {
    src: `clips/${encodeURIComponent(clip.files[0])}`, controls: true, loop: true, playsInline: true, preload: "metadata", ariaLabel: clip.prompt,
  });
}

function deeds(card, clip) {
  card.querySelectorAll("a").forEach((link) => link.remove());
  for (const file of clip.files) {
    const link = Object.assign(document.createElement("a"), { href: `clips/${encodeURIComponent(file)}`, download: "", textContent: "Download" });
    card.querySelector(".deeds").prepend(link);
  }
}

function show(clip) {
  clip.begun = performance.now() - clip.age * 1000;
  let card = cards.get(clip.order);
  if (!card) {
    card = byId("card").content.firstElementChild.cloneNode(true);
    card.querySelector(".again").addEventListener("click", () => useAgain(card.clip));
    cards.set(clip.order, card);
    byId("clips").prepend(card);
    byId("none").hidden = true;
  }
  const before = card.clip;
  card.clip = clip;
  card.dataset.state = clip.state;
  card.querySelector(".prompt").textContent = clip.prompt || "a picture comes alive";
  card.querySelector(".state").textContent = STATES[clip.state];
  card.querySelector(".note").textContent = clip.note;
  if (before?.state !== clip.state) {
    card.querySelector(".screen").replaceChildren(screen(clip)); // only then: a clip that plays goes on
    deeds(card, clip);
    if (before) byId("news").textContent = `${STATES[clip.state]}: ${clip.prompt}`;
  }
  tick(card);
}

function useAgain(clip) {
  form.elements.prompt.value = clip.prompt;
  forgetWish();
  form.elements.prompt.focus();
}

function listen() {
  const source = new EventSource("events");
  source.onopen = () => {
    byId("link").textContent = "live";
    byId("none").hidden = cards.size > 0;
  };
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => {
    byId("link").textContent = "connecting again";
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000); // something between here and the server answered in its place
  };
}

setInterval(() => cards.forEach(tick), 1000);
listen();
