// Tasks as cards. What becomes of one is known when it comes; a card only reads off how far it is.

import { $, copyButton, h, pretty, say, span, svg, write } from "./dom.js";

const KEPT = 200;
let held = matchMedia("(prefers-reduced-motion: reduce)").matches;

export function taskCards(now, verbs) {
  const cards = new Map();
  const looks = new Map();
  const seen = new IntersectionObserver(watch, { rootMargin: "100px" });
  $("hold").addEventListener("click", () => hold(!held));
  hold(held);

  function put(task) {
    if (cards.has(task.id)) return;
    const card = taskCard(task, verbs[task.route], seen);
    cards.set(task.id, card);
    $("cards").prepend(card.element);
    card.tick(now(), looks.get(task.id));
    trim();
    count();
  }

  function trim() {
    const over = [...cards.values()].filter((card) => card.state(now()).over);
    over.slice(0, Math.max(0, cards.size - KEPT)).forEach((card) => {
      card.element.remove();
      cards.delete(card.task.id);
      looks.delete(card.task.id);
    });
  }

  function count() {
    write($("tasks-count"), cards.size ? String(cards.size) : "");
    $("tasks-empty").hidden = cards.size > 0;
  }

  return {
    put,
    tick() { cards.forEach((card) => card.tick(now(), looks.get(card.task.id))); },
    looked(id, seq, at) {
      if (!looks.has(id)) looks.set(id, new Map());
      looks.get(id).set(seq, at);
    },
    clear() {
      cards.forEach((card) => card.element.remove());
      cards.clear();
      looks.clear();
      count();
    },
    /** Account → kind → slots in use. */
    held() {
      const found = new Map();
      for (const { task, state } of cards.values()) {
        if (!found.has(task.account)) found.set(task.account, {});
        const held = found.get(task.account);
        if (!state(now()).over) held[task.kind] = (held[task.kind] ?? 0) + task.slots;
      }
      return found;
    },
    /** Finished clips, newest first, to go on from. */
    clips() {
      return [...cards.values()].reverse()
        .filter(({ task, state }) => task.kind === "video" && state(now()).word === "succeed")
        .map(({ task }) => ({ task: task.id, clip: task.files[0].replace(/\.\w+$/, ""), prompt: task.prompt }));
    },
  };
}

function watch(entries) {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.src) target.src = target.dataset.src;
    if (target.tagName !== "VIDEO") continue;
    target.dataset.visible = isIntersecting ? "yes" : "";
    run(target);
  }
}

/** Clips run where they can be seen, unless they are held. */
function run(clip) {
  if (clip.dataset.visible && !held) clip.play().catch(() => {});
  else clip.pause();
}

function hold(wanted) {
  held = wanted;
  $("hold").setAttribute("aria-pressed", String(held));
  document.querySelectorAll("#cards video").forEach(run);
}

function taskCard(task, verb, seen) {
  const media = h("div", { className: "media" }, h("span", { className: "waiting", "aria-hidden": "true" }));
  const badge = h("span", { className: "badge" });
  const left = h("span");
  const line = timeline(task);
  const words = h("p", { className: "prompt", dir: "auto" }, task.prompt || "no words");
  const reason = h("p", { className: "reason", hidden: true });
  const files = h("p", { className: "files" });
  const details = h("details", {}, h("summary", {}, "Details"),
    h("p", { className: "id" }, h("code", {}, task.id), copyButton("Copy id", () => task.id)), files,
    h("pre", { tabIndex: 0, "aria-label": "Request" }, pretty(task.body)));
  const element = h("li", { className: "card" }, media,
    h("div", { className: "text" },
      h("h3", {}, h("span", {}, verb), badge), words, reason, line.element,
      h("p", { className: "meta" }, h("span", {}, task.model || "model of its clip"), left)), details);
  element.dataset.task = task.id;
  let shown = null;

  function state(time) {
    const over = task.finished !== null && time >= task.finished;
    if (over) return { over, word: task.reason ? "failed" : "succeed" };
    return { over, word: time >= task.processing ? "processing" : "submitted" };
  }

  function tick(time, looks) {
    const { word, over } = state(time);
    line.show(time, looks);
    const reads = looks ? ` · ${looks.size} read${looks.size === 1 ? "" : "s"}` : "";
    const rest = over ? `took ${span(task.finished - task.created)}` : task.finished === null ? "never ends" : `${span(task.finished - time)} left`;
    write(left, rest + reads);
    if (word === shown) return;
    if (shown && over) say(`${verb} ${word}: ${task.prompt.slice(0, 60)}`);
    shown = word;
    write(badge, word);
    element.dataset.state = word;
    if (word === "failed") { reason.hidden = false; write(reason, task.reason); media.replaceChildren(h("span", { className: "broken", "aria-hidden": "true" }, "×")); }
    if (word === "succeed") finish();
  }

  function finish() {
    const urls = task.files.map((file) => `media/${encodeURIComponent(task.id)}/${encodeURIComponent(file)}`);
    const label = task.kind === "video" ? "Open the clip" : "Open the picture";
    media.replaceChildren(...urls.map((url, index) => h("a", { href: url, target: "_blank", rel: "noopener", "aria-label": urls.length > 1 ? `${label} ${index + 1}` : label },
      task.kind === "video" ? clip(url) : picture(url))));
    media.classList.add(urls.length === 1 ? "one" : urls.length <= 4 ? "few" : "many");
    files.replaceChildren(...urls.map((url, index) => h("a", { href: url, download: task.files[index] }, `Save ${task.files[index]}`)));
  }

  function clip(url) {
    const video = h("video", { muted: true, loop: true, playsInline: true, preload: "auto" });
    video.dataset.src = url;
    seen.observe(video);
    return video;
  }

  function picture(url) {
    const image = h("img", { alt: "", loading: "lazy" });
    image.dataset.src = url;
    seen.observe(image);
    return image;
  }

  return { task, element, state, tick };
}

/** How far a task is, where it left the queue, and a tick for each time somebody looked. */
function timeline(task) {
  const bar = (name) => svg("rect", { class: name, x: 0, y: 3, width: 0, height: 4 });
  const [track, queued, done] = [bar("track"), bar("queued"), bar("done")];
  const ticks = svg("g", { class: "ticks" });
  const element = svg("svg", { class: "timeline", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, track, queued, done, ticks);
  track.setAttribute("width", 100);
  let drawn = 0;
  return {
    element,
    show(time, looks) {
      const end = task.finished ?? Math.max(time, task.processing * 2 - task.created, task.created + 60);
      const at = (moment) => Math.min(100, Math.max(0, (100 * (moment - task.created)) / Math.max(1e-6, end - task.created)));
      const [waited, now] = [at(Math.min(time, task.processing)), at(Math.min(time, end))];
      queued.setAttribute("width", waited);
      done.setAttribute("x", waited);
      done.setAttribute("width", Math.max(0, now - waited));
      if (looks && (looks.size !== drawn || task.finished === null)) {
        drawn = looks.size;
        ticks.replaceChildren(...[...looks.values()].map((moment) => svg("rect", { x: at(moment) * 0.994, y: 0, width: 0.6, height: 10 })));
      }
    },
  };
}
