// Signing in with a Lightning wallet: LNURL-auth (LUD-04). The wallet signs, this tab asks until it has.
import { become, call, draw, who } from "/static/api.js";
import { button, copyable, dialog, el, pause, put, say, trouble } from "/static/dom.js";

/** Opens the dialog; it closes by itself once the wallet has signed. */
export async function signIn() {
  const closed = new AbortController();
  const inside = el("div", { class: "stack" });
  const shown = dialog("Sign in", () => closed.abort(), inside);
  const begin = async () => {
    try {
      if (await ask(inside, closed.signal)) shown.close();
      else if (!closed.signal.aborted) put(inside, el("p", {}, "This code has expired."), button("Draw a new one", begin, { kind: "main wide" }));
    } catch (error) {
      put(inside, trouble(error, begin));
    }
  };
  await begin();
}

/** One challenge: true once it is signed, false if nobody did in time. */
async function ask(inside, signal) {
  put(inside, el("div", { class: "waiting" }));
  const login = await call("POST", "/v1/auth/lnurl", {}, { signal });
  put(inside,
    el("p", { class: "quiet small" }, "Scan this with a Lightning wallet that knows LNURL-auth. It signs once, shows us no name, and pays nothing."),
    el("figure", { class: "code-figure" }, el("img", { src: await draw(login.lnurl.toUpperCase()), alt: "QR code to sign in", width: 272, height: 272 })),
    el("a", { class: "button main wide", href: `lightning:${login.lnurl}` }, "Open a wallet on this device"),
    el("details", {}, el("summary", {}, "Copy it instead"), copyable("Login link", login.lnurl)),
    who()?.ticket && el("div", { class: "notice" }, el("p", {}, "You hold a ticket, which signing in puts aside. Keep a copy of it if there are sats on it."), copyable("Ticket", who().ticket)),
    el("p", { class: "state", role: "status" }, "Waiting for your wallet"));
  while (!signal.aborted) {
    try {
      const { tokens } = await call("POST", "/v1/auth/lnurl/token?wait=20", { poll: login.poll }, { signal });
      if (tokens) {
        become(tokens);
        say("You are signed in");
        return true;
      }
    } catch (error) {
      if (signal.aborted || error.status === 404) return false;
      if (error.status < 500 && error.status !== 429) throw error;
      await pause(3000, signal);
    }
  }
  return false;
}
