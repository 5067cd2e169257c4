// What stands around a cutover: what ties the Sovereign now, what would change, and what has come back afterwards.

import { STEPS } from "./fold.js";
import { call } from "./talk.js";
import { $, count, fill, h, show, text } from "./view.js";

const TETHERS = [
  ["Git source", "flux-gitrepository-patch"],
  ["Node registries", "registry-pivot"],
  ["Chart sources", "helmrepo-patches"],
  ["catalyst-api", "catalyst-api-env-patch"],
  ["Pull credentials", "helmrepo-patches"],
  ["Crossplane packages", "helmrepo-patches"],
  ["Catalyst images", "harbor-prewarm"],
  ["Operating system mirror", null],
];
const SHOWN = 200; // rows of one list; the command line has them all
const title = new Map(STEPS);

const looks = {};

// Look once for each occasion; `occasion` changes when what was seen is old.
function look(name, occasion, work, failed) {
  if (looks[name] === occasion) return;
  looks[name] = occasion;
  work().catch((error) => { if (looks[name] === occasion) failed(error); });
}

export function lookBefore(occasion, stopped) {
  look("audit", occasion, async () => tethers(await call("GET", "audit")), (error) => again("audit", "tethers", error, lookBefore, occasion));
  look("plan", occasion, async () => plan(await call("GET", "plan"), stopped), (error) => again("plan", "plan", error, lookBefore, occasion));
}

export function lookAfter(occasion) {
  look("drift", occasion, async () => {
    const found = (await call("GET", "audit")).findings.filter((f) => f.severity !== "notice");
    fill($("drift-list"), places(found));
  }, (error) => again("drift", "drift-list", error, lookAfter, occasion));
}

function again(name, place, error, retry, occasion) {
  const status = $(`${place}-text`);
  if (status) text(status, "Not known.");
  fill($(place), h("p", { class: "notice warn" }, `This could not be read: ${error.message}`),
    h("button", { type: "button", class: "quiet", onclick: () => { looks[name] = null; retry(occasion); } }, "Look again"));
}

// --- tethers ----------------------------------------------------------------------------------------------------

function tethers(audit) {
  const unread = audit.findings.filter((f) => f.severity === "unreadable");
  const other = audit.findings.filter((f) => !f.tether && f.severity !== "unreadable" && f.severity !== "notice");
  text($("tethers-text"), audit.clean ? "Nothing ties this Sovereign to anybody outside." : sentence(audit.verdict));
  const list = TETHERS.map(([name, step], index) => {
    const found = audit.findings.filter((f) => f.tether === index + 1 && f.severity !== "unreadable");
    return tether(index + 1, name, found, step ? `cut by: ${title.get(step)}` : "used once, when a node is made");
  });
  if (other.length) list.push(tether("+", "Other outside hosts", other, "not the vendor's; their owners decide"));
  if (unread.length) list.push(tether("?", "Could not be read", unread, "never taken for a pass"));
  fill($("tethers"), h("ul", { class: "list", role: "list" }, ...list));
}

function tether(number, name, found, note) {
  const head = [h("span", { class: "badge" }, String(number)), h("span", { class: "what" }, name),
    h("span", { class: "count" }, found.length ? count(found.length, "string", "strings") : "none")];
  if (!found.length) return h("li", { class: "none" }, h("div", { class: "line" }, ...head));
  return h("li", {}, h("details", {}, h("summary", { class: "line" }, ...head), h("p", { class: "small" }, note), places(found)));
}

function places(found) {
  const rows = found.slice(0, SHOWN).map((f) => h("li", {},
    h("span", {}, `${f.kind} ${f.namespace ? `${f.namespace}/` : ""}${f.name}`), " ", h("code", {}, f.field), " ", h("span", { class: "host" }, f.host)));
  if (found.length > SHOWN) rows.push(h("li", {}, `and ${found.length - SHOWN} more; cutover audit lists them all`));
  return h("ul", { class: "places", role: "list" }, ...rows);
}

const sentence = (words) => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;

// --- the plan ---------------------------------------------------------------------------------------------------

function plan(steps, stopped) {
  const changes = steps.reduce((sum, step) => sum + step.changes.length, 0);
  const troubles = steps.reduce((sum, step) => sum + step.trouble.length, 0);
  text($("plan-text"), troubles
    ? `${count(changes, "change", "changes")}, and ${count(troubles, "thing that would stop it", "things that would stop it")}.`
    : `${count(changes, "change", "changes")}${stopped ? " left to make." : ". Nothing known stands in the way."}`);
  fill($("plan"), h("ol", { class: "list", role: "list" }, ...steps.map(planned)));
}

function planned(step, index) {
  const head = [h("span", { class: "badge" }, String(index + 1)), h("span", { class: "what" }, title.get(step.step) ?? step.step),
    h("span", { class: "count" }, step.changes.length ? count(step.changes.length, "change", "changes") : "none")];
  const said = [...step.trouble.map((words) => h("p", { class: "notice bad" }, words)), ...step.notes.map((words) => h("p", { class: "small" }, words))];
  const rows = step.changes.slice(0, SHOWN).map((change) => h("li", {}, h("span", {}, change.what),
    change.diff.length ? h("pre", { tabindex: "0", role: "region", "aria-label": `Lines of ${change.what}` }, ...change.diff.slice(0, 60).map(line)) : null));
  if (step.changes.length > SHOWN) rows.push(h("li", {}, `and ${step.changes.length - SHOWN} more; cutover plan lists them all`));
  if (!said.length && !rows.length) return h("li", { class: "none" }, h("div", { class: "line" }, ...head));
  return h("li", {}, h("details", { open: step.trouble.length > 0 }, h("summary", { class: "line" }, ...head), ...said, h("ul", { class: "places", role: "list" }, ...rows)));
}

function line(words) {
  const kind = { "+": "plus", "-": "minus" }[words.charAt(0)];
  return h("span", { class: kind ?? "same" }, `${words}\n`);
}

export function forget() {
  for (const name of Object.keys(looks)) delete looks[name];
}

export function showBefore(wanted) {
  show($("before"), wanted);
}
