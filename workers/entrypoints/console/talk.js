// Everything that leaves this page: to the API it came from, and to the issuer when people log in. Tokens stay in memory.

const BASE = "api/v1/sovereign/cutover";
const SLOWEST = 8000; // ms between two tries
const LOGIN = "cutover-login"; // the one-time secrets of a login under way; never a token
const BEFORE = "cutover-was-signed-in"; // a reload may ask the issuer again without a click

export class Refused extends Error {
  constructor(status, slug, detail) {
    super(detail);
    Object.assign(this, { status, slug });
  }
}

const keys = { mode: null, access: null, refresh: null, until: 0, renewing: null, settings: {}, offset: 0 };

// --- who we are -------------------------------------------------------------------------------------------------

export async function how() {
  if (keys.mode) return keys.mode;
  const answer = await reached("console.json", { cache: "no-store" });
  if (!answer.ok) throw await refusal(answer);
  keys.settings = await answer.json();
  keys.mode = keys.settings.auth;
  if (keys.mode === "oidc") await cameBack();
  return keys.mode;
}

export const known = () => keys.mode === "none" || Boolean(keys.access);
export const mode = () => keys.mode;
export const use = (token) => { keys.access = token; };
export const now = () => Date.now() + keys.offset; // by the server's clock

export async function signIn() {
  const { authorization_endpoint: where } = await discovery();
  const [verifier, state] = [random(), random()];
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  sessionStorage.setItem(LOGIN, JSON.stringify({ verifier, state }));
  location.assign(`${where}?${new URLSearchParams({
    response_type: "code", client_id: keys.settings.client, redirect_uri: here(), scope: "openid", state,
    code_challenge: base64url(new Uint8Array(digest)), code_challenge_method: "S256",
  })}`);
}

// After a reload: whoever was signed in is sent to the issuer once, which knows them still. True when under way.
export async function signInAgain() {
  if (keys.mode !== "oidc" || !sessionStorage.getItem(BEFORE)) return false;
  sessionStorage.removeItem(BEFORE);
  await signIn();
  return true;
}

async function cameBack() {
  const query = new URLSearchParams(location.search);
  const begun = JSON.parse(sessionStorage.getItem(LOGIN) ?? "null");
  if (!query.has("state")) return;
  sessionStorage.removeItem(LOGIN);
  history.replaceState(null, "", here());
  if (!begun || query.get("state") !== begun.state || !query.has("code")) return;
  await tokens({ grant_type: "authorization_code", code: query.get("code"), redirect_uri: here(),
    code_verifier: begun.verifier });
  sessionStorage.setItem(BEFORE, "1");
  await loggedIn();
}

// Told once for each login: the first operator's may start the grace period of auto-fire. Nobody waits for it.
export const loggedIn = () => call("POST", "login").catch(() => null);

async function tokens(body) {
  const { token_endpoint: where } = await discovery();
  const form = new URLSearchParams({ client_id: keys.settings.client, ...body });
  const answer = await fetch(where, { method: "POST", body: form, credentials: "omit" });
  if (answer.status >= 500) throw new Refused(503, "issuer-away", "the identity provider does not answer");
  if (!answer.ok) throw new Refused(401, "login-failed", "the login was not accepted; sign in again");
  const given = await answer.json();
  Object.assign(keys, { access: given.access_token, refresh: given.refresh_token ?? null,
    until: Date.now() + 1000 * (given.expires_in ?? 60) });
}

async function discovery() {
  if (!keys.discovery) {
    const answer = await fetch(`${keys.settings.issuer}/.well-known/openid-configuration`, { credentials: "omit" });
    if (!answer.ok) throw new Refused(503, "issuer-away", "the identity provider does not answer");
    keys.discovery = await answer.json();
  }
  return keys.discovery;
}

// One renewal at a time: an issuer may take the same word only once.
async function fresh() {
  if (!keys.refresh || Date.now() <= keys.until - 30000) return;
  keys.renewing ??= tokens({ grant_type: "refresh_token", refresh_token: keys.refresh }).catch((error) => {
    // An issuer that is away says nothing about us; one that refuses does.
    if (error.status === 401) keys.access = keys.refresh = null;
  }).finally(() => { keys.renewing = null; });
  await keys.renewing;
}

const here = () => location.origin + location.pathname;
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] ?? "");

// --- questions --------------------------------------------------------------------------------------------------

export const call = async (method, path, body) => (await asked(method, path, body)).json();
export const text = async (path) => (await asked("GET", path)).text();

// What is the matter, in the API's own words; nothing when nobody answered at all.
export const words = (error) => (error.status ? error.message : "");

async function reached(path, request) {
  try {
    return await fetch(path, request);
  } catch {
    throw new Refused(0, "unreachable", "the API does not answer");
  }
}

async function refusal(answer) {
  const told = await answer.json().catch(() => ({}));
  return new Refused(answer.status, told.error ?? "", told.detail ?? `the API answered ${answer.status}`);
}

async function asked(method, path, body) {
  const headers = { Accept: "application/json" };
  if (method === "POST") {
    headers["Content-Type"] = "application/json";
    headers["Idempotency-Key"] = random();
  }
  const payload = method === "POST" ? JSON.stringify(body ?? {}) : undefined;
  const send = async () => {
    await fresh();
    if (keys.mode === "oidc" && !keys.access) throw new Refused(401, "signed-out", "The session has ended. Sign in again.");
    if (keys.access) headers.Authorization = `Bearer ${keys.access}`;
    return reached(`${BASE}/${path}`, { method, headers, cache: "no-store", credentials: "omit", body: payload });
  };
  let answer = await send();
  if (answer.status === 401 && keys.refresh) { // whatever we thought of its age: another one is to be had
    keys.until = 0;
    answer = await send();
  }
  const date = Date.parse(answer.headers.get("Date") ?? "");
  if (date && Math.abs(date - Date.now()) > 2000) keys.offset = date - Date.now();
  if (answer.ok) return answer;
  if (answer.status === 401 && !keys.refresh) keys.access = null;
  throw await refusal(answer);
}

// --- live events ------------------------------------------------------------------------------------------------

// One stream for the whole page, whoever asks for it: what was begun before the newest turn comes to nothing.
const stream = { turn: 0, source: null, timer: 0 };
const AWAY = ["broker-unavailable", "status-read-failed"]; // the API answers, and the log is what it has not

// Follows for ever. `cursor` gives the newest sequence we have; `tell` gets messages for the fold; `locked` is called
// when nobody knows us any more, or lets us read. Returns a function that hurries the next try.
export function follow(cursor, tell, locked) {
  let pause = 0;

  function close() {
    clearTimeout(stream.timer);
    stream.source?.close();
    stream.source = null;
  }

  async function begin() {
    close();
    stream.turn += 1;
    const turn = stream.turn;
    try {
      const status = await call("GET", "status");
      if (turn !== stream.turn) return;
      tell({ kind: "status", status, arrived: Date.now() });
      const query = new URLSearchParams();
      if (keys.mode !== "none") query.set("ticket", (await call("POST", "ticket")).ticket);
      if (turn !== stream.turn) return;
      if (cursor() > 0) query.set("lastEventId", cursor());
      listen(query, status.streamSequence);
    } catch (error) {
      if (turn === stream.turn) again(error);
    }
  }

  function listen(query, at) {
    const [source, turn] = [new EventSource(`${BASE}/events?${query}`), stream.turn];
    let opened = false;
    stream.source = source;
    source.onopen = () => { pause = 0; opened = true; };
    source.onerror = async () => {
      source.close();
      const error = opened ? CUT : await why(at);
      if (turn === stream.turn) again(error);
    };
    source.addEventListener("status", (message) => {
      const status = JSON.parse(message.data);
      tell({ kind: "status", status, arrived: Date.now() });
      tell({ kind: "link", link: status.live ? "live" : "stale" });
    });
    source.addEventListener("reset", () => tell({ kind: "reset" }));
    source.addEventListener("lagged", (message) => tell({ kind: "lagged", to: JSON.parse(message.data).to }));
    for (const kind of KINDS) {
      source.addEventListener(kind, (message) => tell({ kind: "event", event: JSON.parse(message.data) }));
    }
  }

  function again(error) {
    close();
    if (error.status === 403 || (error.status === 401 && !keys.refresh)) {
      keys.access = keys.refresh = null;
      sessionStorage.removeItem(BEFORE);
      return locked(error);
    }
    tell({ kind: "link", link: AWAY.includes(error.slug) ? "stale" : "down", trouble: words(error) });
    pause = Math.min(SLOWEST, pause ? pause * 2 : 500);
    stream.timer = setTimeout(begin, pause * (0.75 + Math.random() / 2));
    return undefined;
  }

  begin();
  return () => { if (stream.source?.readyState !== EventSource.OPEN) { pause = 0; begin(); } };
}

const CUT = new Refused(0, "cut", "the connection was lost");

// A browser does not tell why a stream was refused: the same question, asked plainly, is answered with the words.
async function why(at) {
  try {
    const answer = await asked("GET", `events?${new URLSearchParams({ follow: false, lastEventId: at })}`);
    await answer.body?.cancel();
  } catch (error) {
    return error;
  }
  return CUT;
}

const KINDS = [
  "accepted", "step.started", "step.progress", "step.waiting", "step.succeeded", "step.failed", "cancelled",
  "completed", "failed", "audited", "autofire.armed", "autofire.disarmed", "foreign",
];
