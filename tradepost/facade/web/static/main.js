// Which view is shown, and who is signed in: the address after # says the one, this tab's storage the other.
import { Problem, become, call, onChange, who } from "/static/api.js";
import { el, put, sat, say, trouble } from "/static/dom.js";
import { showHire } from "/static/hire.js";
import { showJob, showJobs } from "/static/job.js";
import { signIn } from "/static/login.js";
import { showBalance } from "/static/money.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
let leaving = new AbortController();
let first = true;

const VIEWS = [
  [/^#\/jobs\/([\w-]+)$/, "Job", showJob],
  [/^#\/jobs$/, "Jobs", showJobs],
  [/^#\/balance$/, "Balance", showBalance],
  [/^/, "Hire an agent", showHire],
];

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [match, title, view] = VIEWS.map(([path, ...rest]) => [path.exec(location.hash), ...rest]).find(([found]) => found);
  document.title = `${title} · Tradepost`;
  drawNav();
  put(main, el("div", { class: "waiting" }));
  if (!first) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
    say(title);
  }
  first = false;
  if (!who() && view !== showHire) return put(main, stranger());
  try {
    await view(main, { id: match[1], signal });
  } catch (error) {
    if (!signal.aborted) put(main, needsSignIn(error) ? stranger() : trouble(error, async () => show()));
  }
}

const needsSignIn = (error) => error instanceof Problem && error.status === 401;

function stranger() {
  return el("div", { class: "card empty" },
    el("h1", {}, "Who are you here?"),
    el("p", {}, "Sign in with a Lightning wallet to see your jobs and sats. To hire an agent once you need no account."),
    el("div", { class: "actions" },
      el("button", { type: "button", class: "button main", onclick: signIn }, "Sign in"),
      el("a", { class: "button", href: "#/" }, "Go on without")));
}

/** The links above, and what the caller has. */
async function drawNav() {
  const here = (hash) => (location.hash.startsWith(hash) ? "page" : null);
  const tabs = [
    el("a", { class: "tab", href: "#/", "aria-current": location.hash.length < 3 ? "page" : null }, "Hire"),
    el("a", { class: "tab", href: "#/jobs", "aria-current": here("#/jobs") }, "Jobs"),
  ];
  if (!who()) return put(nav, tabs, el("button", { type: "button", class: "button small", onclick: signIn }, "Sign in"));
  const purse = el("a", { class: "purse", href: "#/balance", "aria-current": here("#/balance"), "aria-label": "Your balance" }, "…");
  put(nav, tabs, purse);
  try {
    const { balance_sat: has } = await call("GET", "/v1/balance");
    put(purse, el("span", { class: "sats" }, sat(has)));
    purse.setAttribute("aria-label", `Your balance: ${sat(has)}`);
  } catch (error) {
    if (needsSignIn(error)) become(null);
  }
}

addEventListener("hashchange", show);
document.addEventListener("sats", drawNav); // a view moved some
onChange(() => (location.hash.startsWith("#/balance") || location.hash === "#/jobs" ? show() : drawNav()));
show();
