// The request log: newest first, one line each; what was sent, what was answered and how to send it again are fetched when asked for.

import { $, ask, copyButton, h, pretty, span, write } from "./dom.js";

const KEPT = 500;

export function requestLog() {
  const rows = new Map();
  let prefix = "/";
  $("requests-kind").addEventListener("change", filter);
  $("requests-text").addEventListener("input", filter);

  function insert(key, entry) {
    const known = rows.get(key);
    if (known) {
      known.show(entry);
    } else {
      rows.set(key, logRow(entry, prefix));
      $("rows").prepend(rows.get(key).element);
      if (rows.size > KEPT) drop(rows.keys().next().value);
    }
    fit(rows.get(key));
    count();
  }

  function drop(key) {
    rows.get(key).element.remove();
    rows.get(key).close();
    rows.delete(key);
  }

  function fit(row) {
    const [kind, text] = [$("requests-kind").value, $("requests-text").value.trim().toLowerCase()];
    const fits = (kind === "all" || kind === row.entry.kind) && (!text || row.words.includes(text));
    row.element.hidden = !fits;
    if (!fits) row.close();
  }

  function filter() {
    rows.forEach(fit);
    count();
  }

  function count() {
    const shown = [...rows.values()].filter((row) => !row.element.hidden).length;
    write($("requests-count"), rows.size ? (shown < rows.size ? `${shown} of ${rows.size}` : String(rows.size)) : "");
    $("requests-empty").hidden = rows.size > 0;
  }

  return {
    put(request) { insert(request.seq, { ...request, kind: kindOf(request) }); },
    called(sent) {
      insert(sent.key, { seq: null, at: sent.at, method: "callback", path: `${sent.state} → ${sent.url}`, status: sent.status, task_id: sent.task_id, kind: "callback", undocumented: [] });
    },
    clear(usual) {
      prefix = `${usual}/`;
      [...rows.keys()].forEach(drop);
      count();
    },
  };
}

function kindOf({ route, method, task_id: task }) {
  if (route === "files") return "files";
  if (!route) return "other";
  return method === "POST" ? "create" : task ? "read" : "other";
}

function logRow(entry, prefix) {
  const status = h("span", { className: "status" });
  const fault = h("span", { className: "pill warn", hidden: true });
  const strange = h("span", { className: "pill", hidden: true });
  const task = h("td", { className: "task" });
  const button = entry.seq === null ? null : h("button", { type: "button", "aria-expanded": "false", className: "open", onclick: toggle }, "Details");
  const element = h("tr", {},
    h("td", { className: "at", title: `${entry.at.toFixed(3)} s` }, span(entry.at)),
    h("td", { className: "request" }, h("b", {}, entry.method), " ", h("span", { className: "path", dir: "ltr" }, ...path(entry.path, prefix)), " ", strange),
    h("td", {}, status, " ", fault), task, h("td", {}, button));
  element.dataset.kind = entry.kind;
  const row = { element, entry, words: "", show, close };
  let detail = null;

  function show(told) {
    row.entry = told;
    row.words = [told.method, told.path, told.status, told.fault, told.task_id, ...told.undocumented].join(" ").toLowerCase();
    write(status, told.status === null ? (told.fault ? "no answer" : "…") : String(told.status));
    status.className = `status ${told.status === null ? "" : told.status < 400 ? "good" : "bad"}`;
    fault.hidden = !told.fault;
    write(fault, told.fault ?? "");
    strange.hidden = !told.undocumented.length;
    write(strange, `not documented: ${told.undocumented.join(", ")}`);
    write(task, told.task_id ?? "");
    button?.setAttribute("aria-label", `Details of request ${told.seq}`);
    if (detail) fill();
  }

  function close() {
    detail?.remove();
    detail = null;
    button?.setAttribute("aria-expanded", "false");
  }

  async function toggle() {
    if (detail) { close(); return; }
    detail = h("tr", { className: "detail" }, h("td", { colSpan: 5 }));
    element.after(detail);
    button.setAttribute("aria-expanded", "true");
    await fill();
  }

  async function fill() {
    const [place, told] = [detail, await ask("GET", `requests/${entry.seq}`)];
    const parts = [
      part("Body", told.body, `${told.size} bytes`),
      part("Answer", told.answer, told.route === "files" ? "the file" : "none"),
      part("curl", told.curl, "", true),
      part("Python", told.python, "The SDK has no word for this.", told.python !== null),
      part("Headers", told.headers, "", false, `from ${told.peer}`),
    ];
    place.firstChild.replaceChildren(h("div", { className: "parts" }, ...parts));
  }

  show(entry);
  return row;
}

/** What all paths begin with is left out where there is no room for it. */
function path(whole, prefix) {
  return whole.startsWith(prefix) ? [h("span", { className: "usual" }, prefix), whole.slice(prefix.length)] : [whole];
}

function part(name, value, otherwise, copies = false, note = "") {
  const nothing = value === null || value === undefined;
  return h("figure", {},
    h("figcaption", {}, h("span", {}, name, note && h("small", {}, ` ${note}`)), copies && copyButton(`Copy ${name}`, () => value)),
    nothing ? h("p", { className: "empty" }, otherwise) : h("pre", { tabIndex: 0, "aria-label": name, className: copies ? "code" : "" }, pretty(value)));
}
