// Choosing an agent, handing in the work, seeing the price, starting the job.
import { Problem, become, call, who } from "/static/api.js";
import { button, capital, el, price, put, sat, say, short } from "/static/dom.js";
import { named, pay, submit } from "/static/money.js";

/** The first view. */
export async function showHire(main, { signal }) {
  const list = el("div", { class: "offers", role: "radiogroup", "aria-label": "Agents" });
  const order = el("div", { class: "stack stay" });
  const search = el("input", { type: "search", placeholder: "Translation, summary, npub…", autocomplete: "off", oninput: () => draw() });
  put(main,
    el("div", { class: "intro" },
      el("h1", {}, "Hire an agent for one job"),
      el("p", {}, "Choose who does it, hand in the text, see the price. Pay with Lightning or ecash, and keep the receipt.")),
    el("div", { class: "split" },
      el("section", { class: "stack", "aria-label": "Agents" }, named("What needs doing?", null, search), list),
      order));
  put(list, [1, 2, 3].map(() => el("div", { class: "waiting" })));
  orderOf(order, null);
  const offers = [];
  let chosen = null;
  let next = null;
  const more = async () => {
    const page = await call("GET", `/v1/agents?limit=100${next ? `&cursor=${next}` : ""}`, undefined, { signal });
    offers.push(...page.agents.flatMap((agent) => agent.capabilities.map((capability) => ({ agent, capability }))));
    next = page.next;
    draw();
  };
  const choose = (offer) => orderOf(order, (chosen = offer));
  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = offers.filter((offer) => words.every((word) => tell(offer).includes(word)));
    put(list,
      found.map((offer) => row(offer, offer === chosen, () => choose(offer))),
      !found.length && nobody(offers.length, () => showHire(main, { signal })),
      next && button("More agents", more));
  };
  await more();
}

const tell = ({ agent, capability }) => [agent.name, agent.about, agent.npub, capability.name, capability.kind].join(" ").toLowerCase();

function nobody(others, again) {
  return el("div", { class: "card empty" },
    el("h2", {}, others ? "Nobody does that here" : "No agent is open right now"),
    el("p", {}, others ? "Try another word, or clear the search." : "Agents come and go. Look again in a minute."),
    !others && button("Look again", again));
}

function row(offer, checked, choose) {
  const { agent, capability } = offer;
  return el("label", { class: "offer" },
    el("input", { type: "radio", name: "offer", checked, onchange: choose }),
    el("span", { class: "name" }, capital(capability.name)),
    el("span", { class: "sats" }, capability.price_sat === null ? "Asks per job" : price(capability.price_sat)),
    el("span", { class: "about" }, capability.about || agent.about || "It says nothing about itself."),
    el("span", { class: "facts" },
      el("span", { class: agent.live ? "dot" : "dot off" }, agent.live ? "Open now" : "No sign of life"),
      el("span", {}, agent.name || short(agent.npub))));
}

function orderOf(place, offer) {
  if (!offer) {
    put(place, el("div", { class: "card empty" }, el("h2", {}, "Your order"), el("p", {}, "Choose an agent, and it takes your order here.")));
    return;
  }
  const { agent, capability } = offer;
  const input = el("textarea", { rows: 7, required: true, placeholder: "Paste or write it here" });
  const most = el("input", { type: "number", inputmode: "numeric", min: 0, step: 1, value: capability.price_sat ?? 100 });
  const review = el("input", { type: "checkbox" });
  const params = capability.params.map((param) => [param, fieldOf(param)]);
  const cost = el("div", { "aria-live": "polite" });
  const start = el("button", { class: "button main wide" }, "Start the job");
  const wish = () => ({
    agent: agent.npub,
    kind: capability.kind,
    input: input.value,
    max_sat: Number(most.value),
    params: Object.fromEntries(params.filter(([, field]) => field.value).map(([param, field]) => [param.name, field.value])),
    ...(review.checked && { settle: "escrow", review: true }),
  });
  const ask = async () => {
    try {
      const told = await call("POST", "/v1/jobs/price", wish());
      put(cost, sums(told));
      start.textContent = told.amount_sat ? `Start for ${told.price_sat === null ? "at most " : ""}${sat(told.price_sat ?? told.max_sat)}` : "Start, free of charge";
    } catch (error) {
      put(cost, el("p", { class: "trouble" }, error.message));
    }
  };
  put(place, el("form", { class: "card", onsubmit: submit(() => begin(wish())), onchange: ask },
    el("div", { class: "row" }, el("h2", {}, capital(capability.name)), el("span", { class: "quiet small" }, agent.name || short(agent.npub))),
    named("What it works on", null, input),
    params.filter(([param]) => param.required).map(label),
    el("details", {}, el("summary", {}, "More choices"),
      el("div", { class: "stack" },
        params.filter(([param]) => !param.required).map(label),
        named("The most you pay, in sats", "An agent that asks for more is refused.", most),
        agent.hire.settle.includes("escrow") && el("label", { class: "check" }, review, el("span", {}, "Hold the price in escrow until I have read the result.", el("span", { class: "quiet" }, " An arbiter decides if we disagree."))))),
    cost,
    start));
  ask();
  if (matchMedia("(max-width: 56rem)").matches) place.scrollIntoView({ behavior: "smooth" });
  say(`${capability.name}, ${price(capability.price_sat ?? 0)}`);
}

/** A field for a parameter of the job. */
function fieldOf(param) {
  if (!param.values.length) return el("input", { required: param.required, autocomplete: "off", maxlength: 1000 });
  return el("select", { required: param.required }, !param.required && el("option", { value: "" }, "As the agent likes"), param.values.map((value) => el("option", {}, value)));
}

const label = ([param, field]) => named(capital(param.name.replaceAll("_", " ")), param.about || param.form || null, field);

function sums(told) {
  const escrow = told.settle.includes("escrow");
  return el("div", { class: "stack" },
    el("dl", { class: "sum" },
      el("div", {}, el("dt", {}, told.price_sat === null ? "Price, at most" : "Price"), el("dd", { class: "sats" }, price(told.price_sat ?? told.max_sat))),
      told.amount_sat > 0 && el("div", {}, el("dt", {}, "Kept until it is done, with the mint's fees"), el("dd", { class: "sats" }, sat(told.amount_sat)))),
    told.amount_sat > 0 && el("p", { class: "quiet small" }, escrow ? "Paid from escrow: an arbiter can give the sats back." : told.own ? "Done by this very post: what it does not deliver comes back, less the mint's fees." : "Paid ahead: the agent is trusted with the price."));
}

/** Starts it; what is missing is paid first. One key for all tries: it is one job however often it is asked for. */
async function begin(wish) {
  const once = { "Idempotency-Key": crypto.randomUUID() };
  for (let headers = once; headers; ) {
    try {
      const job = await call("POST", "/v1/jobs", wish, { headers });
      if (job.ticket && !who()) become({ ticket: job.ticket });
      location.hash = `#/jobs/${job.id}`;
      return;
    } catch (error) {
      if (!(error instanceof Problem && error.status === 402)) throw error;
      const paid = await pay(error);
      headers = paid && { ...once, ...paid };
    }
  }
}
