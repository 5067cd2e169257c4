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

const keys = { mode: null, access: null, refresh: null, until: 0, settings: {}, offset: 0 };

// --- who we are -------------------------------------------------------------------------------------------------

export async function how() {
  if (keys.mode) return keys.mode;
  const answer = await fetch("console.json", { cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, "unreachable", "the API does not answer");
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

async function fresh() {
  if (keys.refresh && Date.now() > keys.until - 30000) {
    await tokens({ grant_type: "refresh_token", refresh_token: keys.refresh }).catch((error) => {
      // An issuer that is away says nothing about us; one that refuses does.
      if (error.status === 401) keys.access = keys.refresh = null;
    });
  }
}

const here = () => location.origin + location.pathname;
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replace(/[+/=]/g, (c) => ({ "+": "-", "/": "_" })[c] ?? "");

// --- questions --------------------------------------------------------------------------------------------------

export const call = async (method, path, body) => (await asked(method, path, body)).json();
export const text = async (path) => (await asked("GET", path)).text();

async function asked(method, path, body) {
  await fresh();
  const headers = { Accept: "application/json" };
  if (keys.access) headers.Authorization = `Bearer ${keys.access}`;
  if (method === "POST") {
    headers["Content-Type"] = "application/json";
    headers["Idempotency-Key"] = random();
  }
  let answer;
  try {
    answer = await fetch(`${BASE}/${path}`, {
      method, headers, cache: "no-store", credentials: "omit", body: method === "POST" ? JSON.stringify(body ?? {}) : undefined,
    });
  } catch {
    throw new Refused(0, "unreachable", "the API does not answer");
  }
  const date = Date.parse(answer.headers.get("Date") ?? "");
  if (date && Math.abs(date - Date.now()) > 2000) keys.offset = date - Date.now();
  if (answer.status === 401) keys.access = null;
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.error ?? "", told.detail ?? `the API answered ${answer.status}`);
}

// --- live events ------------------------------------------------------------------------------------------------

// Follows for ever. `cursor` gives the newest sequence we have; `tell` gets messages for the fold; `locked` is called
// when nobody knows us any more. Returns a function that hurries the next try.
export function follow(cursor, tell, locked) {
  let pause = 0;
  let source = null;
  let timer = 0;

  async function begin() {
    clearTimeout(timer);
    source?.close();
    try {
      tell({ kind: "status", status: await call("GET", "status"), arrived: Date.now() });
      const query = new URLSearchParams();
      if (keys.mode !== "none") query.set("ticket", (await call("POST", "ticket")).ticket);
      if (cursor() > 0) query.set("lastEventId", cursor());
      listen(query);
    } catch (error) {
      again(error);
    }
  }

  function listen(query) {
    source = new EventSource(`${BASE}/events?${query}`);
    source.onopen = () => { pause = 0; };
    source.onerror = () => again(new Refused(0, "cut", "the connection was lost"));
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
    source?.close();
    if (error.status === 401 && !keys.refresh) return locked(error);
    tell({ kind: "link", link: error.status === 503 ? "stale" : "down", trouble: error.message });
    pause = Math.min(SLOWEST, pause ? pause * 2 : 500);
    clearTimeout(timer);
    timer = setTimeout(begin, pause * (0.75 + Math.random() / 2));
    return undefined;
  }

  begin();
  return () => { if (source?.readyState !== EventSource.OPEN) { pause = 0; begin(); } };
}

const KINDS = [
  "accepted", "step.started", "step.progress", "step.waiting", "step.succeeded", "step.failed", "cancelled",
  "completed", "failed", "audited", "autofire.armed", "autofire.disarmed", "foreign",
];
