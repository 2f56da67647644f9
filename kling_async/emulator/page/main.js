// Wires the page to the stream of news. Time is read off here: the emulator says when and how fast, the rest is arithmetic.

import { $, ask, copyButton, h, say, write } from "./dom.js";
import { faultPanel } from "./faults.js";
import { taskForm } from "./form.js";
import { requestLog } from "./requests.js";
import { taskCards } from "./tasks.js";

const SPEEDS = [[0, "Pause"], [1, "1×"], [10, "10×"], [60, "60×"], [600, "600×"]];
const KINDS = { video: "Videos", image: "Images", try_on: "Try-on" };

let clock = { now: 0, speed: 1, read: performance.now() };
let limits = {};
let exports = "";
const now = () => clock.now + ((performance.now() - clock.read) / 1000) * clock.speed;

const catalogue = await ask("GET", "catalogue");
const verbs = Object.fromEntries(catalogue.jobs.map((job) => [job.route, job.verb]));
const tasks = taskCards(now, verbs);
const requests = requestLog();
const faults = faultPanel(catalogue);
const form = taskForm(catalogue, () => tasks.clips());
const clockFace = clockPanel();
copyExports();
listen();
setInterval(tick, 250);

function tick() {
  clockFace.show(now(), clock.speed);
  tasks.tick();
  slots();
}

function listen() {
  const stream = new EventSource("events");
  const on = (kind, work) => stream.addEventListener(kind, (event) => work(JSON.parse(event.data)));
  stream.onopen = () => link("live");
  stream.onerror = () => link("lost, trying again");
  on("hello", (hello) => {
    tasks.clear();
    requests.clear(hello.prefix);
    write($("profile"), hello.profile);
    $("copy-exports").title = exports = `export KLING_BASE_URL=${hello.url}${hello.key ? ` KLING_API_KEY=${hello.key}` : ""}`;
    form.begin(hello);
  });
  on("clock", (told) => { clock = { ...told, read: performance.now() }; tick(); });
  on("slots", (told) => { limits = told.limits; slots(); });
  on("faults", (told) => faults.show(told.orders));
  on("task", (task) => { tasks.put(task); slots(); });
  on("request", (request) => {
    requests.put(request);
    if (request.method === "GET" && request.task_id && request.route !== "files") tasks.looked(request.task_id, request.seq, request.at);
  });
  on("callback", (callback) => requests.called(callback));
}

function link(state) {
  write($("link"), state);
  $("link").classList.toggle("good", state === "live");
  $("link").classList.toggle("bad", state !== "live");
}

function copyExports() {
  $("copy-exports").append(copyButton("Copy exports", () => exports));
}

function clockPanel() {
  const face = h("output", { className: "face", title: "Time of the emulator since its start" });
  const buttons = SPEEDS.map(([speed, label]) =>
    h("button", { type: "button", onclick: () => ask("PUT", "speed", { speed }), "aria-pressed": "false" }, label));
  const own = h("input", {
    type: "number", min: 0, step: "any", "aria-label": "Speed, seconds of the service in one of yours", title: "Speed",
    onchange: () => own.value !== "" && ask("PUT", "speed", { speed: Number(own.value) }),
  });
  const jumps = [[60, "+1 min"], [600, "+10 min"]].map(([seconds, label]) =>
    h("button", { type: "button", onclick: () => ask("POST", "advance", { seconds }) }, label));
  $("clock").append(face, h("span", { className: "joined" }, ...buttons), h("label", {}, own, " ×"), ...jumps, resetButton());
  let shown = null;
  return {
    show(time, speed) {
      write(face, clockText(time));
      if (speed === shown) return;
      shown = speed;
      SPEEDS.forEach(([each], index) => buttons[index].setAttribute("aria-pressed", String(each === speed)));
      if (document.activeElement !== own) own.value = speed;
    },
  };
}

function clockText(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(Math.floor(whole / 3600))}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

function resetButton() {
  const button = h("button", { type: "button", onclick: press, onblur: calm }, "Start over");
  function calm() {
    button.textContent = "Start over";
    button.classList.remove("danger");
  }
  async function press() {
    if (!button.classList.contains("danger")) {
      button.textContent = "Forget all tasks?";
      button.classList.add("danger");
      return;
    }
    calm();
    await ask("POST", "reset");
    say("All tasks, requests and faults are forgotten");
  }
  return button;
}

function slots() {
  const held = tasks.held();
  const accounts = [...new Set(held.keys())];
  const lines = Object.keys(limits).flatMap((kind) =>
    (accounts.length ? accounts : [""]).map((account) => ({ kind, account, used: held.get(account)?.[kind] ?? 0 })))
    .filter((line) => line.used || accounts.length < 2 || line.account === accounts[0]);
  const list = $("slot-list");
  while (list.children.length > lines.length) list.lastChild.remove();
  while (list.children.length < lines.length) list.append(slotLine());
  lines.forEach((line, index) => list.children[index].show(line, accounts.length > 1));
}

function slotLine() {
  const [name, meter, used] = [h("span"), h("meter", { min: 0 }), h("output")];
  const limit = h("input", { type: "number", min: 0, step: 1, onchange: change });
  const item = h("li", { className: "slot" }, name, meter, h("span", { className: "count" }, used, " of ", limit));
  let kind = "";
  async function change() {
    if (limit.value !== "") await ask("PUT", "slots", { ...limits, [kind]: Number(limit.value) });
  }
  item.show = (line, many) => {
    kind = line.kind;
    const words = KINDS[kind] + (many && line.account ? ` · ${line.account}` : "");
    write(name, words);
    write(used, String(line.used));
    meter.max = Math.max(1, limits[kind]);
    meter.value = line.used;
    meter.setAttribute("aria-label", `${words} in use`);
    limit.setAttribute("aria-label", `${KINDS[kind]} at once`);
    if (document.activeElement !== limit) limit.value = limits[kind];
  };
  return item;
}
