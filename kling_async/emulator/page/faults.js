// Faults as switches: on orders one, off takes back all of its name. What struck is counted by the emulator.

import { $, ask, h, write } from "./dom.js";

export function faultPanel({ faults, jobs }) {
  const where = select("Where", [["", "anywhere"], ...jobs.map((job) => [job.route, job.route]), ["files", "result files"]]);
  const method = select("Which", [["", "all requests"], ["POST", "creations"], ["GET", "reads"]]);
  const times = select("How often", [["", "every time"], ["1", "once"], ["3", "3 times"]]);
  const carried = select("Creations are", [["", "as usual"], ["true", "carried out"], ["false", "not carried out"]]);
  $("fault-terms").append(...[where, method, times, carried].map((each) => each.element));
  $("faults-off").addEventListener("click", () => ask("DELETE", "faults"));

  function terms(fault) {
    return {
      route: where.value() || null,
      method: fault.method ? null : method.value() || null,
      times: times.value() ? Number(times.value()) : null,
      accepted: carried.value() ? carried.value() === "true" : null,
    };
  }

  const switches = faults.map((fault) => faultSwitch(fault, () => terms(fault)));
  $("fault-list").append(...switches.map((each) => each.element));
  return {
    show(orders) {
      switches.forEach((each) => each.show(orders.filter((order) => order.name === each.name)));
      $("faults-off").disabled = !orders.length;
    },
  };
}

function select(label, choices) {
  const control = h("select", {}, ...choices.map(([value, words]) => h("option", { value }, words)));
  return { element: h("label", {}, label, control), value: () => control.value };
}

function faultSwitch(fault, terms) {
  const id = `fault-${fault.name}`;
  const button = h("button", { type: "button", role: "switch", id, className: "switch", "aria-checked": "false", "aria-describedby": `${id}-about`, onclick: flip },
    h("span", { className: "knob", "aria-hidden": "true" }), h("span", { className: "name" }, fault.name));
  const struck = h("span", { className: "struck" });
  const options = Object.entries(fault.options).map(([name, usual]) => option(fault.name, name, usual));
  const element = h("li", { className: "fault" },
    h("div", { className: "head" }, button, struck),
    h("p", { id: `${id}-about` }, fault.about),
    options.length ? h("div", { className: "options" }, ...options.map((each) => each.element)) : null);
  let on = false;

  async function flip() {
    if (on) { await ask("DELETE", `faults/${fault.name}`); return; }
    const given = Object.fromEntries(options.filter((each) => each.said()).map((each) => [each.name, each.value()]));
    await ask("POST", "faults", { name: fault.name, ...terms(), ...given });
  }

  function show(orders) {
    const live = orders.filter((order) => order.left !== 0);
    on = live.length > 0;
    button.setAttribute("aria-checked", String(on));
    element.classList.toggle("on", on);
    const hits = orders.reduce((sum, order) => sum + order.hits, 0);
    const order = live[0];
    const told = order ? [order.route, order.method === "POST" ? "creations" : order.method === "GET" ? "reads" : null, order.left === null ? null : `${order.left} to go`] : [];
    write(struck, [...told, hits ? `struck ${hits}×` : null].filter(Boolean).join(" · "));
  }

  return { name: fault.name, element, show };
}

function option(fault, name, usual) {
  const isText = typeof usual === "string";
  const input = h("input", {
    type: isText ? "text" : "number", step: "any", placeholder: usual === null || usual === "" ? "usual" : String(usual),
    "aria-label": `${name} of ${fault}`, autocomplete: "off",
  });
  return {
    name,
    element: h("label", {}, name, input),
    said: () => input.value !== "",
    value: () => (isText ? input.value : Number(input.value)),
  };
}
