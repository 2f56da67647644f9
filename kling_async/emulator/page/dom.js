// Small tools: elements whose text is only ever text, requests to the emulator, copying, and a voice for screen readers.

export const $ = (id) => document.getElementById(id);

/** An element; properties by name, `on…` as listeners, children as text or elements. Never HTML. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The same for drawings. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") element.setAttribute(name, value);
    else if (value !== undefined) element[name] = value;
  }
}

/** Writes text only where it differs, so that selections and screen readers are left alone. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells people who do not see the page. */
export function say(text) {
  $("news").textContent = text;
}

/** Asks the emulator's own API, relative to this page; says what went wrong. */
export async function ask(method, path, body) {
  const options = { method, headers: {} };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  try {
    const answer = await fetch(path, options);
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.error);
    return data;
  } catch (error) {
    say(`Not done: ${error.message}`);
    throw error;
  }
}

/** A button that copies what `text` gives. */
export function copyButton(label, text) {
  const button = h("button", { type: "button", className: "copy", onclick: copy }, label);
  async function copy() {
    const words = await text();
    const done = await copied(words);
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    say(done ? "Copied" : "Selected, press Ctrl-C");
    setTimeout(() => { button.textContent = label; }, 1500);
  }
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard away from localhost: the old way, and failing that people see what to copy.
    const area = h("textarea", { value: text, className: "quiet" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** JSON, laid out for reading. */
export const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

/** Seconds as `0:42`, `5:19` or `1:02:03`. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}
