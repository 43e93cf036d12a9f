// Requests to the service, and its refusals in words that say what to do next. It shows nothing and keeps no answer.

const TOKEN = "hushrec.token";
let forgotten = null; // where the browser allows no storage, the token lives as long as the page

/** What the service refused, or that it did not answer; `message` is for people, `status` 0 where nothing came. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function token() {
  try {
    return sessionStorage.getItem(TOKEN) ?? "";
  } catch {
    return forgotten ?? "";
  }
}

export function keepToken(value) {
  forgotten = value;
  try {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  } catch {
    // no storage: `forgotten` has it
  }
}

/** The JSON answer to a GET, or to a POST where there is a body. */
export async function ask(path, { body = null, signal = null } = {}) {
  const headers = { Accept: "application/json" };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body) headers["Content-Type"] = "application/json";
  const sent = { method: body ? "POST" : "GET", headers, signal, cache: "no-store" };
  let answer;
  try {
    answer = await fetch(path, { ...sent, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "The server does not answer. See whether hushrec serve still runs, then try again.");
  }
  if (!answer.ok) throw await refusal(answer);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(answer.status, "The answer cannot be read. Is this page from the same hushrec serve?");
  }
}

async function refusal(answer) {
  const said = sentence(await answer.json().catch(() => null));
  if (answer.status === 401) {
    document.dispatchEvent(new CustomEvent("token-needed"));
    return new ServiceError(401, "This server asks for a token: enter one in the box above.");
  }
  if (answer.status === 403) {
    if (token()) document.dispatchEvent(new CustomEvent("token-needed", { detail: said }));
    return new ServiceError(403, `This token may not do that. Ask the operator for one that may. ${said}`.trim());
  }
  if (answer.status === 429) {
    const seconds = answer.headers.get("Retry-After");
    const wait = seconds ? `${seconds} seconds` : "a moment";
    return new ServiceError(429, `Too many requests with this token: wait ${wait}, then try again.`);
  }
  if (answer.status >= 500) {
    return new ServiceError(
      answer.status,
      `The server could not answer (${answer.status}). Try again; its log says why.`,
    );
  }
  return new ServiceError(answer.status, said || `The server refused this (${answer.status}).`);
}

function sentence(said) {
  const detail = said?.detail ?? said?.error ?? "";
  if (Array.isArray(detail)) return detail.map((one) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg}`).join("; ");
  return typeof detail === "string" ? detail : (detail.message ?? "");
}

/** Call `poll` every `seconds` until it returns false or the function that this returns is called. */
export function every(seconds, poll) {
  let timer = null;
  let stopped = false;
  async function again() {
    if (stopped) return;
    const more = document.hidden || (await poll());
    if (more && !stopped) timer = setTimeout(again, seconds * 1000);
  }
  timer = setTimeout(again, seconds * 1000);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}
