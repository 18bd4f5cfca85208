// Sats in and out: the balance, and the dialog in which a price is paid.
import { become, call, draw, who } from "/static/api.js";
import { busy, button, copyable, date, dialog, el, pause, put, sat, say, trouble } from "/static/dom.js";

export const moved = () => document.dispatchEvent(new Event("sats"));

/** The view of one's own sats. */
export async function showBalance(main, { signal }) {
  const [balance, { withdrawals }] = await Promise.all([call("GET", "/v1/balance"), call("GET", "/v1/balance/withdrawals")]);
  if (signal.aborted) return;
  const again = () => (moved(), showBalance(main, { signal }));
  const card = balanceCard(balance);
  const changed = async () => (moved(), card.replaceChildren(...balanceCard(await call("GET", "/v1/balance")).childNodes));
  put(main,
    el("div", { class: "row" }, el("h1", {}, "Balance"),
      el("button", { type: "button", class: "button small", onclick: leave }, who()?.ticket ? "Forget the ticket" : "Sign out")),
    el("div", { class: "split" },
      el("div", { class: "stack stay" },
        card,
        who()?.ticket && ticketCard()),
      el("div", { class: "stack" }, topUpCard(again, signal), takeCard(balance, again, changed), withdrawalsCard(withdrawals))));
}

function balanceCard({ balance_sat: has, held_sat: held, custodial }) {
  return el("section", { class: "card", "aria-label": "What you have here" },
    el("p", { class: "figure" }, sat(has).replace(" sat", ""), el("small", {}, " sat")),
    held > 0 && el("p", { class: "quiet small" }, `and ${sat(held)} kept for what is under way`),
    el("p", { class: "quiet small" }, forPeople(custodial)));
}

/** The sentence without the operation in it. */
const forPeople = (custodial) => custodial.replace(/: POST \/v1\S+$/, ".");

function ticketCard() {
  return el("section", { class: "card" },
    el("h2", {}, "Your ticket"),
    el("p", { class: "small" }, "You are nobody here but the holder of this ticket. It goes when you close this tab: keep a copy if sats are left on it, and give it to nobody."),
    copyable("Ticket", who().ticket));
}

async function leave() {
  if (who()?.access) await call("DELETE", "/v1/auth/session").catch(() => {});
  become(null);
  location.hash = "#/";
}

/** A field with a heading: `named(label, hint, control)`. */
export function named(label, hint, control) {
  const id = `f${crypto.randomUUID().slice(0, 8)}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}h`);
  return el("div", { class: "field" }, el("label", { for: id }, label), control, hint && el("p", { class: "hint", id: `${id}h` }, hint));
}

function topUpCard(again, signal) {
  const amount = el("input", { type: "number", inputmode: "numeric", min: 1, step: 1, value: 100, required: true });
  const token = el("textarea", { rows: 3, class: "code", placeholder: "cashuB…", spellcheck: "false", autocomplete: "off" });
  const place = el("div", { class: "stack" });
  const invoice = async () => {
    const deposit = await call("POST", "/v1/balance/invoices", { amount_sat: Number(amount.value) });
    put(place, await invoiceParts(deposit.invoice, deposit.amount_sat));
    if (!(await verified(deposit, signal).catch((error) => { put(place); throw error; }))) return;
    await call("GET", `/v1/balance/deposits/${deposit.id}`);
    say(`${sat(deposit.amount_sat)} arrived`);
    await again();
  };
  const redeem = async () => {
    await call("POST", "/v1/balance/tokens", { token: token.value.trim() });
    say("The token is redeemed");
    await again();
  };
  return el("section", { class: "card" },
    el("h2", {}, "Add sats"),
    tabs([
      ["Lightning", el("form", { class: "stack", onsubmit: submit(invoice) }, named("How many sats", null, amount),
        el("div", { class: "actions" }, el("button", { class: "button main" }, "Make an invoice")), place)],
      ["Ecash", el("form", { class: "stack", onsubmit: submit(redeem) }, named("A Cashu token", "Of a mint that this post trusts; its fee is taken off.", token),
        el("div", { class: "actions" }, el("button", { class: "button main" }, "Redeem it")))],
    ]));
}

async function invoiceParts(bolt11, amount) {
  return [
    el("figure", { class: "code-figure" }, el("img", { src: await draw(bolt11.toUpperCase()), alt: "QR code of the invoice", width: 272, height: 272 })),
    el("a", { class: "button wide", href: `lightning:${bolt11}` }, "Open a wallet on this device"),
    copyable("Invoice", bolt11),
    el("p", { class: "state", role: "status" }, `Waiting for ${sat(amount)}`),
  ];
}

function takeCard(balance, again, changed) {
  const WAYS = [
    ["Scan", "lnurl", "Make a QR code", "Scan it with a Lightning wallet within an hour."],
    ["Ecash", "ecash", "Make a token", "For any Cashu wallet."],
    ["Send", "lightning", "Send it", null],
  ];
  const panel = ([, way, label, hint]) => {
    const amount = el("input", { type: "number", inputmode: "numeric", min: 1, max: balance.balance_sat, step: 1, placeholder: "All there is, less the fees" });
    const to = el("input", { class: "code", placeholder: "lnbc… or name@host", spellcheck: "false", autocomplete: "off", required: true });
    const place = el("div", { class: "stack" });
    const take = async () => {
      const wish = { way, ...(amount.value && { amount_sat: Number(amount.value) }), ...(way === "lightning" && { to: to.value.trim() }) };
      const { withdrawal } = await call("POST", "/v1/balance/withdrawals", wish, { headers: { "Idempotency-Key": crypto.randomUUID() } });
      if (way === "lightning") return again();
      put(place, await handed(withdrawal));
      await changed();
    };
    return el("form", { class: "stack", onsubmit: submit(take) },
      way === "lightning" && named("To an invoice or a Lightning address", null, to),
      named("How many sats", hint, amount), el("div", { class: "actions" }, el("button", { class: "button main" }, label)), place);
  };
  return el("section", { class: "card" },
    el("h2", {}, "Take sats away"),
    balance.balance_sat === 0 ? el("p", { class: "quiet" }, "There is nothing to take yet.") : tabs(WAYS.map((way) => [way[0], panel(way)])));
}

/** What is as good as the sats: a token to copy, or an LNURL to scan. */
async function handed({ token, lnurl }) {
  say("It is made");
  if (token) return [el("p", { class: "small" }, "This is the money itself. Copy it into a wallet, and show it to nobody."), copyable("Token", token)];
  return [el("figure", { class: "code-figure" }, el("img", { src: await draw(lnurl.toUpperCase()), alt: "QR code to withdraw", width: 272, height: 272 })),
    el("a", { class: "button wide", href: `lightning:${lnurl}` }, "Open a wallet on this device"), copyable("Withdrawal link", lnurl)];
}

const WAY_WORDS = { ecash: "Token", lightning: "Lightning", lnurl: "QR code" };
const STATE_WORDS = { open: "on its way", done: "done", failed: "failed, the sats are back", expired: "expired, the sats are back" };

function withdrawalsCard(withdrawals) {
  if (!withdrawals.length) return null;
  const line = (one) => {
    const place = el("div", { class: "stack" });
    const show = async () => put(place, await handed((await call("GET", `/v1/balance/withdrawals/${one.id}`)).withdrawal));
    return el("li", {}, el("div", { class: "line" },
      el("span", {}, WAY_WORDS[one.way], el("span", { class: "about" }, ` ${date(one.created_at)} · ${STATE_WORDS[one.state]}`)),
      one.state === "open" && one.way !== "lightning" && button("Show", show, { kind: "small" }), el("span", { class: "sats" }, sat(one.amount_sat))), place);
  };
  return el("section", { class: "card" }, el("h2", {}, "Taken away"), el("ul", { class: "list" }, withdrawals.map(line)));
}

/** A listener of a form that does `work` and tells what went wrong. */
export const submit = (work) => (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  busy(event.submitter ?? form.querySelector(".button.main"), () => work(form));
};

/** Panels of which one is shown: [[label, element], …]. Arrow keys go from one to the next. */
export function tabs(panels) {
  const id = crypto.randomUUID().slice(0, 8);
  const choose = (chosen, focus) => buttons.forEach((one, n) => {
    one.setAttribute("aria-selected", n === chosen);
    one.tabIndex = n === chosen ? 0 : -1;
    shown[n].hidden = n !== chosen;
    if (focus && n === chosen) one.focus();
  });
  const shown = panels.map(([, panel], n) => el("div", { role: "tabpanel", id: `${id}p${n}`, "aria-labelledby": `${id}t${n}` }, panel));
  const buttons = panels.map(([label], n) =>
    el("button", { type: "button", role: "tab", id: `${id}t${n}`, "aria-controls": `${id}p${n}`, onclick: () => choose(n),
      onkeydown: ({ key }) => key.startsWith("Arrow") && choose((n + (key === "ArrowRight" || key === "ArrowDown" ? 1 : panels.length - 1)) % panels.length, true) }, label));
  choose(0);
  return el("div", { class: "stack" }, el("div", { class: "tabs", role: "tablist" }, buttons), shown);
}

/** Shows how to pay what a problem `payment_required` asks for. Resolves with the headers to ask again with, or null. */
export function pay(problem) {
  const { payment } = problem;
  return new Promise((resolve) => {
    const closed = new AbortController();
    let headers = null;
    const shown = dialog(`${sat(payment.amount_sat)} to pay`, () => (closed.abort(), resolve(headers)));
    const paid = (more) => {
      headers = more;
      if (payment.ticket && !who()) become({ ticket: payment.ticket });
      shown.close();
    };
    const token = el("textarea", { rows: 4, class: "code", placeholder: "cashuB…", spellcheck: "false", autocomplete: "off", required: true });
    const lightning = el("div", { class: "stack" });
    shown.append(
      el("p", { class: "quiet small" }, forPeople(payment.custodial)),
      tabs([
        ...(payment.invoice ? [["Lightning", lightning]] : []),
        ["Ecash", el("form", { class: "stack", onsubmit: submit(() => paid({ "X-Cashu": token.value.trim() })) },
          named("A Cashu token", "What is more than the price stays on your balance.", token),
          el("div", { class: "actions" }, el("button", { class: "button main" }, "Pay with it")))],
      ]));
    if (!payment.invoice) return;
    invoiceParts(payment.invoice, payment.amount_sat)
      .then((parts) => put(lightning, parts))
      .then(() => verified(payment, closed.signal))
      .then((is) => is && paid({}))
      .catch((error) => put(lightning, trouble(error, () => paid({}))));
  });
}

/** LUD-21: asks whether the invoice is paid, until it is. */
async function verified({ verify, expires_at: end }, signal) {
  const { pathname, search } = new URL(verify);
  while (!signal.aborted) {
    const told = await fetch(pathname + search, { signal, credentials: "omit" }).then((response) => response.json()).catch(() => ({}));
    if (told.settled) return true;
    if (end && Date.now() / 1000 > end) throw new Error("This invoice has expired. Do not pay it: make a new one.");
    await pause(2000, signal);
  }
  return false;
}
