// What the card knows, as a plain function of what it was told. No page, no network, no clock.
//
// `told` takes what we know and one message and gives what we know next. The server's `status` is a whole picture of
// the log up to `streamSequence`; an event is one line of it. A message that is older than what we know changes
// nothing, so a replay, a second tab or a reconnect cannot set the card back.

export const STEPS = [
  ["gitea-mirror", "Mirror upstream Git into local Gitea"],
  ["harbor-projects", "Prepare the projects in local Harbor"],
  ["harbor-prewarm", "Copy every image, chart and package"],
  ["registry-pivot", "Point every node at local Harbor"],
  ["flux-gitrepository-patch", "Point Flux at local Gitea"],
  ["helmrepo-patches", "Point charts and packages at local Harbor"],
  ["catalyst-api-env-patch", "Point catalyst-api at local Gitea"],
  ["egress-block-test", "Block egress and prove that nothing breaks"],
];
const KEPT = 300; // lines of the log

export const NOTHING = { status: null, at: 0, arrived: 0, lines: [], cursor: 0, link: "connecting", trouble: "" };

export function told(known, message) {
  switch (message.kind) {
    case "status": return status(known, message);
    case "event": return event(known, message.event);
    case "lagged": return { ...known, cursor: Math.max(known.cursor, message.to) };
    case "reset": return { ...NOTHING, link: known.link }; // another log stands in the place of the one we knew
    case "link": return { ...known, link: message.link, trouble: message.trouble ?? "" };
    default: return known;
  }
}

function status(known, { status: next, arrived }) {
  if (known.status && next.streamSequence < known.status.streamSequence) return known;
  // The countdown is counted on from when a number was new, not from when it was repeated.
  const same = known.status && known.status.holdSecondsRemaining === next.holdSecondsRemaining
    && known.status.streamSequence === next.streamSequence;
  return { ...known, status: next, arrived: same ? known.arrived : arrived };
}

function event(known, next) {
  if (next.sequence <= known.cursor) return known;
  const before = known.lines.at(-1);
  const line = { sequence: next.sequence, time: next.time ?? "", kind: next.kind, level: next.level,
    step: next.step ?? "", message: next.message ?? "" };
  // Progress of one step is one line that changes, as on a screen.
  const renews = line.kind === "step.progress" && before?.kind === "step.progress" && before.step === line.step;
  const lines = renews ? [...known.lines.slice(0, -1), line] : [...known.lines, line];
  return { ...known, cursor: next.sequence, lines: lines.slice(-KEPT) };
}

// --- readings of it ---------------------------------------------------------------------------------------------

export const running = (s) => s?.runPhase === "running";
export const failed = (s) => s?.runPhase === "failed";
export const armed = (s) => s?.raw?.autoFire === "pending";

export function phase(s) {
  if (!s) return "unknown";
  if (running(s)) return "running";
  if (failed(s)) return "failed";
  if (s.cutoverComplete) return "sovereign";
  return s.runPhase === "cancelled" ? "cancelled" : "tethered";
}

// The eight rows, always eight and always in order, whatever the server left out.
export function rows(s) {
  const given = new Map((s?.steps ?? []).map((step) => [step.name, step]));
  return STEPS.map(([name, title], index) => {
    const step = given.get(name) ?? {};
    return { title, ...step, name, number: index + 1, word: word(s, step) };
  });
}

function word(s, step) {
  if (!s) return "unknown";
  if (step.waiting) return "waiting";
  const result = step.status || { running: "running", success: "done", failed: "failed" }[step.result] || "pending";
  return result === "running" && !running(s) ? "pending" : result;
}

export const WORDS = {
  unknown: "Not known yet", pending: "To do", running: "Running", waiting: "Waiting, tried again by itself",
  done: "Done", failed: "Failed",
};

export function hold(known, now) {
  const left = known.status?.holdSecondsRemaining;
  if (left === null || left === undefined || !running(known.status)) return null;
  return Math.max(0, Math.round(left - (now - known.arrived) / 1000));
}

// What a screen reader is told: changes of steps and of the whole, never progress.
export function spoken(before, after) {
  if (!before || !after) return "";
  const was = rows(before);
  const said = rows(after)
    .filter((row, i) => row.word !== was[i].word && row.word !== "pending")
    .map((row) => `Step ${row.number} of 8, ${row.title}: ${WORDS[row.word]}.`);
  if (phase(before) !== phase(after)) said.push(HEADLINES[phase(after)]);
  return said.slice(-3).join(" ");
}

export const HEADLINES = {
  unknown: "Reading the log", tethered: "Tethered", running: "Cutover under way", failed: "Stopped at a step",
  cancelled: "Cancelled", sovereign: "Sovereign",
};

// --- numbers for people -----------------------------------------------------------------------------------------

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(count) {
  let unit = 0;
  for (; count >= 1024 && unit < UNITS.length - 1; unit += 1) count /= 1024;
  return `${unit ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (h) return `${h} h ${String(m).padStart(2, "0")} min`;
  return m ? `${m} min ${String(s).padStart(2, "0")} s` : `${s} s`;
}

export function clock(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = `${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}`;
  return h ? `${h}:${tail}` : tail;
}

export function measures(row) {
  const parts = [];
  if (row.percent !== null && row.percent !== undefined) parts.push(`${row.percent} %`);
  if (row.itemsTotal) parts.push(`${row.itemsDone ?? 0} of ${row.itemsTotal}`);
  if (row.bytesDone !== null && row.bytesDone !== undefined) {
    parts.push(row.bytesTotal ? `${size(row.bytesDone)} of ${size(row.bytesTotal)}` : size(row.bytesDone));
  }
  if (row.bytesPerSecond) parts.push(`${size(row.bytesPerSecond)}/s`);
  return parts;
}
