// Everything this page asks of the post: requests, who asks, and streams of events. Tokens live in this tab alone.

const STORE = "tradepost";
const changed = new EventTarget();
let bearer = JSON.parse(sessionStorage.getItem(STORE) ?? "null"); // {access, refresh} or {ticket}
let renewing = null;
const settled = claim();

/** What the post says when something does not work; see docs/errors.md. */
export class Problem extends Error {
  constructor(status, told) {
    super(told.message ?? "The post does not answer as it should. Try again in a moment.");
    Object.assign(this, { status, code: told.code, action: told.action, money: told.money, payment: told.payment });
  }
}

export const who = () => bearer;
export const onChange = (tell) => changed.addEventListener("who", tell);

/** Goes on as somebody else: a session, a ticket, or null for nobody. */
export function become(somebody) {
  bearer = somebody;
  if (somebody) sessionStorage.setItem(STORE, JSON.stringify(somebody));
  else sessionStorage.removeItem(STORE);
  changed.dispatchEvent(new Event("who"));
}

/** A copy of a tab has its tokens. A refresh token is good once, so the copy goes on without it. */
function claim() {
  const tab = (sessionStorage.tab ??= crypto.randomUUID());
  return new Promise((done) => {
    const mine = () => (done(), new Promise(() => {})); // until this tab goes
    navigator.locks.request(tab, { signal: AbortSignal.timeout(1000) }, mine).catch(() => {
      delete bearer?.refresh;
      sessionStorage.setItem(STORE, JSON.stringify(bearer));
      delete sessionStorage.tab;
      done(claim());
    });
  });
}

/** One operation. Returns what it answers; throws `Problem`. `wish` becomes the body. */
export async function call(method, path, wish, { headers = {}, signal } = {}) {
  const body = wish === undefined ? undefined : JSON.stringify(wish);
  const response = await send(method, path, { body, signal, headers: body ? { ...headers, "Content-Type": "application/json" } : headers });
  return response.status === 204 ? null : response.json();
}

/** What an operation answers that is text. */
export const text = async (path, signal) => (await send("GET", path, { signal, headers: {} })).text();

/** A QR code, as a URL that <img> may show. */
export async function draw(text) {
  const response = await send("POST", "/v1/qr", { body: JSON.stringify({ text }), headers: { "Content-Type": "application/json" } });
  return URL.createObjectURL(await response.blob());
}

/** The events of a stream as {name, id, data}, for ever: after a break it goes on where it was, by Last-Event-ID. */
export async function* events(path, signal) {
  let last = "";
  for (let wait = 500; !signal.aborted; wait = Math.min(2 * wait, 10_000)) {
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const response = await send("GET", path, { headers, signal });
      for await (const event of parse(response.body)) {
        wait = 500;
        last = event.id || last;
        yield event;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status < 500 && error.status !== 429) throw error;
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

async function* parse(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const event = { name: "message", id: "", data: "" };
      for (const line of block.split(/\r?\n/)) {
        const [, field, told] = /^(\w*):? ?(.*)$/.exec(line) ?? [];
        if (field === "event") event.name = told;
        else if (field === "id") event.id = told;
        else if (field === "data") event.data += told;
      }
      if (event.data) yield { ...event, data: JSON.parse(event.data) };
    }
  }
}

async function send(method, path, given) {
  const asked = bearer;
  let response = await attempt(method, path, given);
  if (response.status === 401 && path !== "/v1/auth/refresh" && (await settled, asked?.refresh)) {
    await (renewing ??= renew().finally(() => (renewing = null)));
    response = await attempt(method, path, given);
  }
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}

function attempt(method, path, { headers, ...given }) {
  const token = bearer?.access ?? bearer?.ticket;
  const credentials = token && path !== "/v1/auth/refresh" ? { Authorization: `Bearer ${token}` } : {};
  return fetch(path, { method, ...given, headers: { ...credentials, ...headers }, cache: "no-store", credentials: "omit" });
}

async function renew() {
  try {
    become(await call("POST", "/v1/auth/refresh", { refresh: bearer.refresh }));
  } catch (error) {
    if (error.status === 401) become(null);
    throw error;
  }
}
