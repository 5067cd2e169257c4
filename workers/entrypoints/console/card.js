// The card: paints what the fold knows, and turns a click into a request. It decides nothing.

import * as before from "./before.js";
import {
  HEADLINES, NOTHING, STEPS, WORDS, armed, clock, failed, hold, measures, phase, rows, running, span, spoken, told,
} from "./fold.js";
import * as api from "./talk.js";
import { $, ask, count, fill, h, leave, mark, person, show, text, when } from "./view.js";

let known = NOTHING;
let problem = "";
let painting = 0;
let hurry = () => {};
let outside = false; // nobody is signed in

function tell(message) {
  const was = known;
  known = told(known, message);
  if (known === was) return;
  const words = spoken(was.status, known.status);
  if (words) text($("say"), words);
  if (phase(was.status) !== phase(known.status)) problem = "";
  painting ||= setTimeout(paint, 40);
}

function paint() {
  painting = 0;
  const focused = document.activeElement;
  const s = known.status;
  paintLink(s);
  show($("card"), !outside);
  paintHero(s);
  paintFuse(s);
  paintFailure(s);
  paintDrift(s);
  paintSteps(s);
  paintBefore(s);
  paintLog();
  tick();
  text($("foot"), s ? `Log at ${s.streamSequence}, chain ${s.integrity}${s.rehearsal ? ", a rehearsal" : ""}${api.mode() === "none" ? ". Nobody is asked here who they are." : ""}` : "");
  if (running(s)) leave("start");
  else leave("cancel");
  if (!armed(s)) leave("fuse");
  if (focused !== document.body && !focused.checkVisibility()) $("title").focus();
}

// --- the frame --------------------------------------------------------------------------------------------------

const LINKS = { connecting: "Connecting", live: "Live", stale: "Broker away", down: "Reconnecting" };

function paintLink(s) {
  mark($("link"), "link", known.link);
  text($("link-text"), LINKS[known.link]);
  const banner = $("banner");
  const words = outside ? problem : s?.integrity === "broken"
    ? `The log's chain does not hold: ${s.integrityError}. Nothing will be begun on it; run cutover verify.`
    : problem || AWAY[known.link]?.(s) || "";
  banner.className = s?.integrity === "broken" || problem ? "notice bad" : "notice warn";
  text(banner, words);
  show(banner, Boolean(words));
}

const AWAY = {
  stale: (s) => `The broker does not answer. ${s ? "What you see is the last that is known. " : ""}Nothing is lost; this page goes on by itself when it is back.`,
  down: (s) => `${known.trouble ? `The API answers: ${known.trouble}.` : "The API does not answer."} ${s ? "What you see is the last that is known. " : ""}Trying again by itself.`,
};

// --- the head ---------------------------------------------------------------------------------------------------

function paintHero(s) {
  const now = phase(s);
  mark(document.body, "phase", now);
  text($("state"), HEADLINES[now]);
  text($("title"), now !== "sovereign" ? "Achieve True Sovereignty" : `True Sovereignty ${s.rehearsal ? "rehearsed" : "achieved"}`);
  text($("lead"), lead(s, now));
  show($("overall"), running(s) || failed(s));
  $("overall-bar").value = s?.progressPercent ?? 0;
  text($("overall-percent"), `${s?.progressPercent ?? 0} %`);
  text($("overall-what"), running(s) ? `step ${s.currentStepIndex || 1} of ${s.totalSteps}` : "when it stopped");
  show($("start"), now === "tethered" || now === "cancelled");
  show($("certificate"), now === "sovereign");
  show($("again"), now === "sovereign");
  show($("cancel"), running(s));
  paintFacts(s);
}

function lead(s, now) {
  const row = rows(s).find((each) => each.name === s?.currentStep);
  switch (now) {
    case "unknown": return "Nothing is shown before it is known.";
    case "running": return row ? `${row.title}.` : "The first step is about to begin.";
    case "failed": return "What is done stays done, and nothing after the failed step has begun.";
    case "cancelled": return "The last run was cancelled. What is done stays done; a new run finds it and goes on from there.";
    case "sovereign": return s.rehearsal
      ? "Every string is cut. This was a rehearsal: the hold was shortened, so it is not the proof."
      : "Every string is cut, and everything worked while every way out was blocked.";
    default: return "This Sovereign still depends on its vendor in several places. The cutover cuts them one by one, then blocks every way out and proves that nothing breaks.";
  }
}

function paintFacts(s) {
  const facts = s?.runId ? [
    ["Asked by", person(s.operator)], ["Began", when(s.cutoverLastAttemptStartedAt)], ["Ended", when(running(s) ? "" : s.cutoverFinishedAt)],
    ["Run", s.runId], ["Evidence", s.cutoverComplete ? s.evidenceDigest : ""],
  ].filter(([, value]) => value) : [];
  show($("facts"), facts.length > 0);
  const key = JSON.stringify(facts);
  if ($("facts").dataset.key === key) return;
  mark($("facts"), "key", key);
  fill($("facts"), ...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// --- what needs eyes --------------------------------------------------------------------------------------------

function paintFuse(s) {
  show($("fuse"), armed(s));
  if (armed(s)) text($("fuse-text"), `${person(s.raw.autoFireOperator)} was the first operator to log in. Without a cancel the cutover begins ${when(s.raw.autoFireAt)}.`);
}

function paintFailure(s) {
  const row = rows(s).find((each) => each.name === s?.failedStep);
  show($("failure"), failed(s));
  if (!failed(s)) return;
  const [reason, ...rest] = (s.lastError || row?.message || "").split(": ");
  text($("failure-title"), row ? `Step ${row.number} stopped: ${row.title}` : "The run stopped");
  text($("failure-reason"), row?.reason || reason);
  text($("failure-message"), row?.reason ? row.message : rest.join(": "));
  text($("failure-do"), "Put right what it names, then retry. Steps before it are not repeated.");
  show($("retry"), Boolean(row));
  text($("retry"), `Retry step ${row?.number ?? ""}`);
}

function paintDrift(s) {
  const after = phase(s) === "sovereign" && s.tethersFound !== null;
  const back = after && s.tethersFound > 0;
  show($("drift"), after);
  if (!after) return;
  $("drift").className = back ? "panel drift" : "panel calm";
  text($("drift-title"), back ? `Drift: ${count(s.tethersFound, "string leads", "strings lead")} outside again` : "No drift");
  text($("drift-text"), back
    ? "Something was changed after the cutover. Put it right, or run the cutover again: it cuts what came back."
    : "Watched since the cutover: no string leads outside.");
  if (back) before.lookAfter(`${s.runId}/${s.tethersFound}`);
  else fill($("drift-list"));
}

function paintBefore(s) {
  const wanted = ["tethered", "cancelled", "failed"].includes(phase(s));
  before.showBefore(wanted);
  if (wanted && known.link === "live") before.lookBefore(`${s.runId}/${s.runPhase}`, failed(s));
}

// --- the eight steps --------------------------------------------------------------------------------------------

const painted = STEPS.map(([name, title], index) => {
  const parts = {
    state: h("p", { class: "word" }), detail: h("p", { class: "detail" }), time: h("p", { class: "time" }),
    bar: h("progress", { max: 100, "aria-label": `Progress of step ${index + 1}, ${title}` }), counts: h("p", { class: "counts" }),
  };
  parts.row = h("li", { "data-step": name }, h("span", { class: "number", "aria-hidden": "true" }, String(index + 1)),
    h("div", { class: "name" }, h("h3", {}, title), h("code", {}, name)), h("div", { class: "standing" }, parts.state, parts.time),
    h("div", { class: "more" }, parts.detail, parts.bar, parts.counts));
  return parts;
});

function paintSteps(s) {
  rows(s).forEach((row, index) => {
    const at = painted[index];
    const busy = row.word === "running" || row.word === "waiting";
    mark(at.row, "word", row.word);
    if (busy) at.row.setAttribute("aria-current", "step");
    else at.row.removeAttribute("aria-current");
    text(at.state, WORDS[row.word] + (row.attempt > 1 && busy ? `, attempt ${row.attempt}` : ""));
    const said = row.word === "pending" || row.word === "unknown" ? "" : row.message ?? "";
    text(at.detail, row.word === "failed" ? row.reason : row.word === "waiting" ? `${row.reason}: ${said}` : said);
    show(at.detail, Boolean(said));
    show(at.bar, busy);
    if (row.percent === null || row.percent === undefined) at.bar.removeAttribute("value");
    else at.bar.value = row.percent;
    text(at.counts, busy ? measures(row).join("  ·  ") : "");
    show(at.counts, busy && Boolean(at.counts.textContent));
  });
}

function paintLog() {
  text($("log-count"), known.lines.length ? count(known.lines.length, "line", "lines") : "");
  if (!$("log").open || Number($("log-lines").dataset.at) === known.cursor) return;
  const list = $("log-lines");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
  list.dataset.at = known.cursor;
  fill($("log-lines"), ...known.lines.slice(-120).map((line) => h("li", { "data-level": line.level },
    h("time", { datetime: line.time }, when(line.time, false)), h("code", {}, line.step || "cutover"), h("span", {}, line.message))));
  if (atEnd) list.scrollTop = list.scrollHeight; // whoever reads further up is left there
}

// --- clocks -----------------------------------------------------------------------------------------------------

function tick() {
  const s = known.status;
  const left = hold(known, Date.now());
  show($("hold"), left !== null);
  if (left !== null) text($("hold-clock"), clock(left));
  if (armed(s)) {
    const rest = (Date.parse(s.raw.autoFireAt) - api.now()) / 1000;
    text($("fuse-clock"), rest > 0 ? clock(rest) : "due");
    if (rest <= 0) text($("fuse-text"), `The grace period after the login of ${person(s.raw.autoFireOperator)} is over. It begins as soon as handover is sealed.`);
  }
  rows(s).forEach((row, index) => {
    const [from, to] = [Date.parse(row.startedAt ?? ""), Date.parse(row.finishedAt ?? "")];
    const end = to || (row.word === "running" || row.word === "waiting" ? api.now() : 0);
    text(painted[index].time, from && end && row.word !== "pending" ? span((end - from) / 1000) : "");
  });
}

// --- what a click does ------------------------------------------------------------------------------------------

function askToStart(again) {
  let checked = true;
  ask({
    what: "start", title: "Achieve True Sovereignty", yes: "Start the cutover", no: "Not now",
    body: [
      h("p", {}, "This will happen, in eight steps, without another question:"),
      h("ul", {},
        h("li", {}, "Git, images, charts and packages are copied to this Sovereign."),
        h("li", {}, "Every node, Flux, the charts and catalyst-api are pointed at those copies, in Git and in the cluster."),
        h("li", {}, "The vendor's credentials are taken away."),
        h("li", {}, "Every way out is blocked while everything is made to work, for ten minutes or as long as the settings say, then opened again.")),
      h("p", { class: "notice warn" }, "It is not reversed. You can cancel between two safe points, but nothing puts the old ties back."),
    ],
    act: async (saying) => {
      const forced = !checked;
      saying(forced ? "Starting" : "Checking, then starting");
      try {
        take(await api.call("POST", "start", { again, preflight: !forced }));
      } catch (error) {
        if (error.status === 424) checked = false;
        saying(checked ? "Start the cutover" : "Start anyway");
        throw error;
      }
    },
  });
}

const askToCancel = () => ask({
  what: "cancel", title: "Cancel this cutover?", yes: "Cancel the cutover", no: "Let it run", danger: true,
  body: [h("p", {}, "The running step stops at its next safe point. What is done stays done: this Sovereign may be left between two worlds until a new run finishes it.")],
  act: async () => take(await api.call("POST", "cancel", { run: known.status.runId })),
});

const askToDisarm = () => ask({
  what: "fuse", title: "Cancel the automatic start?", yes: "Cancel for good", no: "Let it count", danger: true,
  body: [h("p", {}, "It will not begin by itself again, whoever logs in. You can still start the cutover by hand.")],
  act: async () => take(await api.call("POST", "cancel")),
});

async function plainly(button, work) {
  button.disabled = true;
  problem = "";
  try {
    await work();
  } catch (error) {
    problem = error.message;
  } finally {
    button.disabled = false;
    paint();
  }
}

function take(status) {
  tell({ kind: "status", status, arrived: Date.now() });
}

async function download() {
  const file = new Blob([await api.text("certificate")], { type: "application/json" });
  const link = h("a", { href: URL.createObjectURL(file), download: `certificate-${known.status.runId}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- begin ------------------------------------------------------------------------------------------------------

function askWho(error) {
  outside = true;
  hurry = () => {};
  show($("card"), false);
  show($("link"), false);
  show($("sign-in"), true);
  show($("sign-in-oidc"), api.mode() === "oidc");
  show($("sign-in-token"), api.mode() === "token");
  if (error) text($("sign-in-why"), error.message);
  paint();
}

function enter() {
  outside = false;
  show($("sign-in"), false);
  show($("link"), true);
  before.forget();
  hurry = api.follow(() => known.cursor, tell, askWho);
}

async function open() {
  try {
    await api.how();
  } catch (error) {
    tell({ kind: "link", link: "down", trouble: api.words(error) });
    setTimeout(open, 2000);
    return;
  }
  if (api.known()) enter();
  else if (!await api.signInAgain().catch(() => false)) askWho();
}

fill($("steps"), ...painted.map((parts) => parts.row));
$("start").addEventListener("click", () => askToStart(false));
$("again").addEventListener("click", () => askToStart(true));
$("anew").addEventListener("click", () => askToStart(true));
$("cancel").addEventListener("click", askToCancel);
$("fuse-cancel").addEventListener("click", askToDisarm);
$("retry").addEventListener("click", () => plainly($("retry"), async () => take(await api.call("POST", `steps/${known.status.failedStep}/retry`))));
$("certificate").addEventListener("click", () => plainly($("certificate"), download));
// Whoever works by keyboard is not thrown back to the top when what was focused has gone.
$("confirm").addEventListener("close", () => setTimeout(() => {
  if (document.activeElement === document.body || !document.activeElement.checkVisibility()) $("title").focus();
}));
$("log").addEventListener("toggle", paintLog);
$("sign-in-oidc").addEventListener("click", () => plainly($("sign-in-oidc"), api.signIn));
$("sign-in-token").addEventListener("submit", (event) => {
  event.preventDefault();
  const pasted = $("token").value.trim().replace(/^Bearer\s+/i, "");
  $("token").value = "";
  if (!/^[!-~]+$/.test(pasted)) { // no header could carry it
    text($("sign-in-why"), "That is no access token.");
    return;
  }
  api.use(pasted);
  api.loggedIn();
  enter();
});
addEventListener("online", () => hurry());
document.addEventListener("visibilitychange", () => { if (!document.hidden) hurry(); });
setInterval(tick, 1000);
open();
