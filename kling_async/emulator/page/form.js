// A form for each job, made from the API's facts: what is filled in is sent as any client would send it.

import { $, h, pretty, say } from "./dom.js";

/** Shown at once; the others wait behind "More fields". */
const FIRST = new Set(["prompt", "model_name", "image", "duration", "aspect_ratio", "n", "sound", "video_id", "input", "human_image", "cloth_image"]);
const START = "videos/text2video";

export function taskForm({ jobs, models }, clips) {
  const picker = h("select", { onchange: choose }, ...jobs.map((job) => h("option", { value: job.route, selected: job.route === START }, job.verb)));
  const key = h("input", { type: "text", spellcheck: false });
  const door = h("details", {}, h("summary", {}, "Key"), h("label", {}, "Sent as Bearer", key));
  const fields = h("div", { className: "fields" });
  const button = h("button", { type: "submit", className: "main" }, "Create");
  const known = h("datalist", { id: "clips" });
  const makers = h("datalist", { id: "makers" });
  $("form").append(h("label", {}, "Job", picker), fields, door, known, makers, button);
  $("form").addEventListener("submit", send);
  $("form").addEventListener("focusin", offerClips);
  let prefix = "";
  let group = null;
  choose();

  function choose() {
    const job = jobs.find((each) => each.route === picker.value);
    group = fieldGroup(job.fields, { job, models, path: "" });
    fields.replaceChildren(group.element);
    fit();
    $("reply").replaceChildren();
    fields.querySelector('[name="model_name"]')?.addEventListener("change", fit);
  }

  function fit() {
    const job = jobs.find((each) => each.route === picker.value);
    group.fit(fields.querySelector('[name="model_name"]')?.value || job.default_model);
  }

  function offerClips() {
    const found = clips();
    known.replaceChildren(...found.map(({ clip, prompt }) => h("option", { value: clip }, prompt)));
    makers.replaceChildren(...found.map(({ task, prompt }) => h("option", { value: task }, prompt)));
  }

  async function send(event) {
    event.preventDefault();
    button.disabled = true;
    try {
      const body = await group.value();
      const answer = await fetch(`${prefix}/${picker.value}`, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${key.value}` },
        body: JSON.stringify(body ?? {}),
      });
      const text = await answer.text();
      reply(answer.ok ? "good" : "bad", `${answer.status} ${answer.statusText}`, readable(text));
    } catch (error) {
      reply("bad", "No answer", error.message);
    } finally {
      button.disabled = false;
      button.focus();
    }
  }

  function reply(mood, title, text) {
    say(`Reply: ${title}`);
    $("reply").replaceChildren(h("p", { className: `status ${mood}` }, title), h("pre", { tabIndex: 0, "aria-label": "Reply" }, text));
  }

  return {
    begin(hello) {
      prefix = hello.prefix;
      if (hello.key) key.value ||= hello.key;
      else { key.type = "password"; door.open = true; }
    },
  };
}

function readable(text) {
  try {
    return pretty(JSON.parse(text));
  } catch {
    return text;
  }
}

/** Several fields; `value` gives what was filled in, or nothing. */
function fieldGroup(rules, context) {
  const parts = Object.entries(rules).map(([name, rule]) => field(name, rule, { ...context, path: `${context.path}${name}` }));
  const [first, more] = [[], []];
  parts.forEach((part) => (part.first ? first : more).push(part.element));
  const rest = more.length ? h("details", { className: "more" }, h("summary", {}, "More fields"), ...more) : null;
  return {
    element: h("div", { className: "group" }, ...first, rest),
    fit(model) { parts.forEach((part) => part.fit(model)); },
    async value() {
      const pairs = await Promise.all(parts.map(async (part) => [part.name, await part.value()]));
      const said = pairs.filter(([, value]) => value !== undefined);
      return said.length ? Object.fromEntries(said) : undefined;
    },
  };
}

function field(name, rule, context) {
  const made = (MAKERS[rule.type] ?? text)(name, rule, context);
  const needed = Boolean(rule.required) && !context.path.includes(".");
  const label = h("span", {}, name, needed ? h("abbr", { title: "required" }, " *") : null);
  const element = made.grouped ? h("fieldset", {}, h("legend", {}, label), made.element) : h("label", {}, label, made.element);
  element.dataset.field = context.path;
  return {
    name, element,
    first: FIRST.has(name) || Boolean(rule.required) || context.path.includes("."),
    value: async () => (element.hidden ? undefined : made.value()),
    fit(model) {
      element.hidden = Boolean(rule.models) && !rule.models.includes(model);
      made.fit?.(model);
    },
  };
}

const MAKERS = {
  string(name, rule, context) {
    if (name === "model_name") return choice(name, context.job.models, `not said (${context.job.default_model})`);
    if (rule.one_of) return choice(name, rule.one_of, "not said");
    return name.includes("prompt") || name === "text" ? area(name) : text(name);
  },
  bool: (name) => {
    const made = choice(name, ["true", "false"], "not said");
    return { ...made, value: () => (made.value() === undefined ? undefined : made.value() === "true") };
  },
  seconds(name, rule, context) {
    const made = choice(name, [], "not said");
    const fit = (model) => {
      const held = made.value();
      const known = context.models[model]?.seconds ?? [...Array(10).keys()].map((index) => String(index + 1));
      made.element.replaceChildren(...options(known, "not said"));
      made.element.value = held && known.includes(held) ? held : "";
    };
    fit("");
    return { ...made, fit: rule.range ? undefined : fit };
  },
  int: (name, rule) => number(name, rule, 1),
  float: (name, rule) => number(name, rule, "any"),
  object(name, rule, context) {
    const group = fieldGroup(rule.fields, { ...context, path: `${context.path}.` });
    return { grouped: true, element: group.element, value: group.value, fit: group.fit };
  },
  array(name, rule, context) {
    const entries = [];
    const list = h("div", { className: "entries" });
    const add = h("button", { type: "button", onclick: more }, `Add to ${name}`);
    function more() {
      const group = fieldGroup(rule.fields, { ...context, path: `${context.path}.` });
      const entry = h("div", { className: "entry" }, group.element, h("button", { type: "button", onclick: less, "aria-label": `Remove from ${name}` }, "Remove"));
      function less() {
        entries.splice(entries.indexOf(group), 1);
        entry.remove();
        add.disabled = false;
        add.focus();
      }
      entries.push(group);
      list.append(entry);
      add.disabled = entries.length >= rule.items[1];
    }
    return {
      grouped: true,
      element: h("div", {}, list, add),
      async value() {
        const values = (await Promise.all(entries.map((group) => group.value()))).map((value) => value ?? {});
        return values.length ? values : undefined;
      },
    };
  },
  picture: (name) => file(name, "image/png,image/jpeg", true),
  sound: (name) => file(name, "audio/*,.m4a,.aac", false),
  url: (name) => input(name, { type: "url", placeholder: "https://…" }),
};

const options = (values, otherwise) => [h("option", { value: "" }, otherwise), ...values.map((value) => h("option", { value }, value))];

function choice(name, values, otherwise) {
  const element = h("select", { name }, ...options(values, otherwise));
  return { element, value: () => element.value || undefined };
}

function input(name, properties) {
  const element = h("input", { name, ...properties });
  return { element, value: () => element.value || undefined };
}

function text(name) {
  const list = { video_id: "clips", task_id: "makers" }[name];
  return input(name, { type: "text", ...(list ? { list } : {}) });
}

function area(name) {
  const element = h("textarea", { name, rows: 2 });
  return { element, value: () => element.value || undefined };
}

function number(name, rule, step) {
  const [low, high] = rule.range ?? [];
  const made = input(name, { type: "number", min: low ?? "", max: high ?? "", step, placeholder: rule.range ? `${low} to ${high ?? "…"}` : "" });
  return { ...made, value: () => (made.value() === undefined ? undefined : Number(made.value())) };
}

/** A file from here as base64, or the URL of one elsewhere; a picture may also be the emulator's own sample. */
function file(name, accept, sampled) {
  const chosen = h("input", { type: "file", name, accept, "aria-label": `${name}: file`, onchange: () => { held = null; note(chosen.files[0]?.name ?? ""); } });
  const url = h("input", { type: "url", placeholder: "or its URL", "aria-label": `${name}: URL`, name: `${name}_link` });
  const told = h("small", {});
  const sample = h("button", { type: "button", "aria-label": `${name}: use a sample picture`, onclick: take }, "Sample");
  let held = null;
  function note(words) { told.textContent = words; }
  async function take() {
    held = await (await fetch("sample.png")).blob();
    chosen.value = "";
    note("sample.png");
    say(`${name}: sample picture taken`);
  }
  return {
    element: h("span", { className: "file" }, chosen, sampled && url, sampled && sample, told),
    async value() {
      const blob = held ?? chosen.files[0];
      return blob ? base64(blob) : url.value || undefined;
    },
  };
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
