// Elements, text and small parts that every view is made of. Data becomes text nodes and attributes, never markup.

/** An element. Names that begin with "on" are listeners; false, null and undefined leave an attribute or child out. */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  put(made, ...children);
  return made;
}

/** Replaces what an element holds. */
export function put(parent, ...children) {
  parent.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return parent;
}

const counted = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const dated = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });

export const sat = (amount) => `${counted.format(amount)} sat`;
export const price = (amount) => (amount === 0 ? "Free" : sat(amount));
export const time = (unix) => clock.format(new Date(unix * 1000));
export const date = (unix) => dated.format(new Date(unix * 1000));
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const short = (text, keep = 8) => (text.length > 2 * keep ? `${text.slice(0, keep)}…${text.slice(-4)}` : text);

/** Says it to people who listen to the page. */
export function say(text) {
  document.getElementById("live").textContent = text;
}

export const pause = (milliseconds, signal) =>
  new Promise((done) => {
    const timer = setTimeout(done, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
  });

/** A button that cannot be pressed twice: `work` is awaited, and what it throws is told beside it. */
export function button(label, work, { kind = "", ...more } = {}) {
  const made = el("button", { type: "button", class: `button ${kind}`, ...more, onclick: () => busy(made, work) }, label);
  return made;
}

/** Runs `work` while `control` is busy; tells an error after it, and removes the one before. */
export async function busy(control, work) {
  if (control.getAttribute("aria-busy") === "true") return;
  control.setAttribute("aria-busy", "true");
  const place = control.closest(".actions") ?? control;
  if (place.nextElementSibling?.classList.contains("trouble")) place.nextElementSibling.remove();
  try {
    await work();
  } catch (error) {
    if (control.isConnected) place.after(trouble(error));
  } finally {
    control.removeAttribute("aria-busy");
  }
}

/** What went wrong, and where the money is. */
export function trouble(error, again) {
  console.info(error.code ?? error);
  return el(
    "div", { class: "trouble", role: "alert" },
    el("p", {}, error.message || "This did not work."),
    error.money && el("p", { class: "quiet" }, error.money),
    again && el("p", {}, button("Try again", again, { kind: "small" })),
  );
}

/** Something to copy, with the button for it. */
export function copyable(label, text) {
  const field = el("textarea", { class: "code", readonly: true, rows: 3, "aria-label": label, value: text, onfocus: () => field.select() });
  const copy = button("Copy", async () => {
    await navigator.clipboard?.writeText(text).catch(() => {});
    field.select();
    copy.textContent = "Copied";
    say(`${label} copied`);
  }, { kind: "small", "aria-label": `Copy: ${label}` });
  return el("div", { class: "copyable" }, field, copy);
}

/** A modal dialog. It goes when it is closed by any means; `closed` is told then. */
export function dialog(title, closed, ...children) {
  const made = el(
    "dialog", { "aria-label": title, onclose: () => (made.remove(), closed()) },
    el("div", { class: "dialog-head" }, el("h2", {}, title),
      el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => made.close() }, "✕")),
    ...children,
  );
  document.body.append(made);
  made.showModal();
  return made;
}

/** Offers a text as a file. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
