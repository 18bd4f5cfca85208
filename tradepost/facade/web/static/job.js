// One job as it goes: its way, its result, its receipt, and in escrow the decision. And the list of all.
import { call, events, text } from "/static/api.js";
import { button, capital, date, download, el, pause, price, put, sat, say, short, time } from "/static/dom.js";
import { moved, named, submit } from "/static/money.js";

const STATES = { working: ["Under way", ""], done: ["Done", "good"], failed: ["No result", "bad"], cancelled: ["Cancelled", ""] };
const ENDS = { done: ["Result", "good"], failed: ["Ended without a result", "bad"], cancelled: ["Cancelled", "bad"] };
const PAID = ["paid", "awaiting_refund", "done", "refunded", "lost"];
const STAGES = {
  conceded: "You released the price: it goes to the agent.", released: "You released the price, or the arbiter did: it is the agent's.",
  overdue: "Nothing came in time: the price is asked back.", claiming: "The price is on its way back to you.", refunded: "The price came back to you.",
  disputed: "You disputed the result. The arbiter hears both of you, then decides.", lost: "The price went to the agent.", void: "It ended before anything was locked.",
};

/** The view of all jobs. */
export async function showJobs(main, { signal }) {
  const { jobs } = await call("GET", "/v1/jobs", undefined, { signal });
  put(main,
    el("h1", {}, "Your jobs"),
    jobs.length
      ? el("ul", { class: "card list flush" }, jobs.map((job) => el("li", {}, el("a", { href: `#/jobs/${job.id}` },
        el("span", {}, el("span", { class: "name" }, title(job)), el("span", { class: "about" }, date(job.created_at))), el("span", { class: "ends" }, el("span", { class: "sats" }, price(job.cost_sat ?? job.price_sat)), stateTag(job))))))
      : el("div", { class: "card empty" }, el("h2", {}, "Nothing yet"), el("p", {}, "What you have done for you is listed here."), el("a", { class: "button main", href: "#/" }, "Hire an agent")));
}

const agentOf = (job) => job.attempts.at(-1);
const title = (job) => capital(agentOf(job)?.name ?? "job");

function stateTag(job) {
  const [word, kind] = { review: ["Your decision", "held"], disputed: ["Disputed", "held"] }[job.step] ?? STATES[job.state] ?? [job.state, ""];
  return el("span", { class: `tag ${kind}` }, word);
}

/** The view of one. */
export async function showJob(main, { id, signal }) {
  const path = `/v1/jobs/${id}`;
  let job = await call("GET", path, undefined, { signal });
  const head = el("div", { class: "intro" });
  const way = el("ol", { class: "way", "aria-label": "What happened" });
  const aside = el("div", { class: "stack" });
  const actions = el("div", { class: "actions" });
  const slip = el("div");
  const left = el("div", { class: "stack" }, el("section", { class: "card" }, el("h2", {}, "The way of this job"), way, actions), slip);
  put(main, head, el("div", { class: "split" }, left, aside));
  const said = [];

  const draw = async () => {
    const open = job.state === "working";
    put(head, el("p", {}, el("a", { href: "#/jobs" }, "Jobs"), " / ", el("span", { class: "mono" }, short(job.id))), el("h1", {}, title(job)), el("p", {}, stateTag(job)));
    put(way, steps(said, job));
    put(slip, !open && receiptSlip(job, path));
    aside.classList.toggle("ahead", !open);
    put(actions, open && button("Cancel", async () => change(await call("POST", `${path}/cancel`)), { kind: "small danger" }));
    put(aside, ...(open ? [el("section", { class: "card" }, el("h2", {}, "Result"), partial(said) ?? el("p", { class: "state" }, "The result will be here"))] : await ended()));
  };
  const change = async (next) => {
    job = next ?? (await call("GET", path, undefined, { signal }));
    if (signal.aborted) return;
    moved();
    await draw();
  };
  const ended = async () => [
    job.state === "done" ? resultCard(job, job.result ?? (await text(job.links.result, signal))) : failureCard(job),
    job.escrow && escrowCard(job.escrow, path, change, job.escrow.can.length ? (await call("GET", job.links.escrow, undefined, { signal })).arbiter_fee_sat : 0),
  ];

  await draw();
  for await (const { name, data } of events(`${path}/events`, signal)) {
    if (name === "end") break;
    if (name === "job") await change(data);
    else if (data.step === "working" || data.step === "partial") {
      said.push({ ...data, at: Date.now() / 1000 });
      say(data.message);
      put(way, steps(said, job));
      if (data.step === "partial") put(aside.firstChild, el("h2", {}, "Result"), partial(said));
    } else await change();
  }
  const mark = (one) => [one.state, one.step, one.cost_sat, one.escrow?.stage].join();
  while (!signal.aborted && job.step !== "ended") { // its money has not come to rest
    await pause(5000, signal);
    const now = await call("GET", path, undefined, { signal }).catch(() => job);
    if (mark(now) !== mark(job)) await change(now);
  }
}

/** What happened: of agents and money as the post knows it, and what the agent said while we listened. */
function steps(said, job) {
  const told = [["Handed in", "", job.created_at]];
  for (const one of job.attempts) {
    told.push(["Asked", short(one.npub), one.created_at]);
    if (one.price_sat > 0 && PAID.includes(one.state)) told.push([el("span", {}, "Paid ", el("span", { class: "sats" }, sat(one.price_sat))), ""]);
    if (one.state === "refunded") told.push(["The sats are back", ""]);
    else if (one.reason) told.push(["Left", one.reason]);
  }
  for (const { step, message, at } of said) if (step === "working" && message) told.push(["At work", message, at]);
  const [word, kind] = ENDS[job.state] ?? [];
  if (word) told.push([word, ""]);
  return told.map(([what, more, at], n) => el("li", { class: n < told.length - 1 ? "" : kind ?? "now" },
    el("span", { class: "told" }, what, more && el("span", { class: "more" }, more)),
    at && el("time", { datetime: new Date(at * 1000).toISOString() }, time(at))));
}

function partial(said) {
  const parts = said.filter(({ step }) => step === "partial").map(({ content }) => content);
  return parts.length ? el("pre", { class: "result" }, parts.join("")) : null;
}

function resultCard(job, result) {
  return el("section", { class: "card" },
    el("h2", {}, "Result"),
    el("pre", { class: "result", tabindex: "0" }, result),
    el("div", { class: "actions" },
      button("Copy", () => navigator.clipboard.writeText(result).then(() => say("Result copied")), { kind: "small" }),
      button("Save as a file", async () => download(`result-${short(job.id)}.txt`, result, "text/plain"), { kind: "small" })));
}

function failureCard(job) {
  return el("section", { class: "card" }, el("h2", {}, "There is no result"), el("p", {}, job.reason || "The agent did not say why."), el("p", { class: "quiet" }, capital(job.money)),
    el("div", { class: "actions" }, el("a", { class: "button", href: "#/" }, "Ask another agent")));
}

function escrowCard(escrow, path, change, fee) {
  const may = (what) => escrow.can.includes(what);
  const reason = el("textarea", { rows: 3, required: true, placeholder: "What is wrong with it" });
  if (!escrow.can.length) return el("section", { class: "card" }, el("h2", {}, "Escrow"), el("p", {}, STAGES[escrow.stage] ?? escrow.stage));
  return el("section", { class: "card" },
    el("h2", {}, `${sat(escrow.price_sat)} in escrow`),
    el("p", {}, STAGES[escrow.stage] ?? "Read the result. If it is what you asked for, release the price to the agent; if not, say why, and an arbiter decides."),
    may("dispute") && escrow.review_until && el("p", { class: "quiet small" }, `Without a word from you by ${date(escrow.review_until)} the agent may have the price.`),
    may("accept") && el("div", { class: "actions" }, button("Release the price", async () => (await call("POST", `${path}/escrow/accept`), await change()), { kind: "main" })),
    may("dispute") && el("details", {}, el("summary", {}, "Something is wrong with it"),
      el("form", { class: "stack", onsubmit: submit(async () => (await call("POST", `${path}/escrow/dispute`, { reason: reason.value, fee_max_sat: fee }), await change())) },
        named("Why", fee > 0 ? `Hearing it costs ${sat(fee)}, which comes off your balance.` : "The agent and the arbiter read it, nobody else.", reason), el("div", { class: "actions" }, el("button", { class: "button danger" }, "Dispute it")))));
}

/** What the till prints; the receipt that others can check is a file, once the agent has logged the job. */
function receiptSlip(job, path) {
  const line = (what, told) => told && el("div", {}, el("dt", {}, what), el("dd", {}, told));
  const agent = agentOf(job);
  const save = async () => download(`receipt-${job.id.slice(0, 8)}.json`, JSON.stringify(await call("GET", `${path}/receipt`), null, 2), "application/json");
  return el("div", { class: "slip-holder" }, el("section", { class: "slip", "aria-label": "Receipt" },
    el("h2", {}, "Receipt"),
    el("dl", { class: "sum" }, line("Job", short(job.id)), line("Agent", agent && short(agent.npub)), line("Handed in", date(job.created_at))),
    el("hr"),
    el("dl", { class: "sum" }, line("Price", price(job.price_sat)), job.cost_sat !== null && el("div", { class: "total" }, el("dt", {}, "Paid, with fees"), el("dd", {}, price(job.cost_sat)))),
    job.state === "done" && el("p", { class: "quiet" }, capital(job.money)),
    job.state === "done" && job.price_sat > 0 && [el("hr"), el("div", { class: "actions" }, button("Save what proves it", save, { kind: "small" }))]));
}
