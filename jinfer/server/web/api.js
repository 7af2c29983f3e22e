// Calls of the server that this page came from.

import { readEvents } from "./event_stream.js";

const BASE = new URL("../", import.meta.url); // right behind a proxy that adds a prefix, too
const KEY = "jinfer.key";

/** An answer that is an error. `status` is null where the server did not answer or ended a stream. */
export class ApiError extends Error {
  constructor(message, { status = null, retryAfterS = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Keeps the key until the tab closes; an empty one is forgotten. */
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** The first model that is served: {id, max_model_len, has_chat_template, …}. */
export async function fetchModel() {
  const { data } = await (await call("v1/models")).json();
  if (!data?.length) throw new ApiError("The server has no model.");
  return data[0];
}

/** The metrics in Prometheus' text format. */
export const fetchMetrics = async (signal) => (await call("metrics", { signal })).text();

/** The chunks of a streamed answer, objects. Throws ApiError where the stream ends before its [DONE]. */
export async function* streamChunks(path, body, signal) {
  const response = await call(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server ended the answer with an error.");
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
  }
  throw new ApiError("The connection ended before the answer was complete.");
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (hasKey()) headers.authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let message = `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  try {
    message = (await response.json()).error.message ?? message;
  } catch { /* a proxy's page, of which the status says enough */ }
  const retryAfter = Number.parseInt(response.headers.get("retry-after"), 10);
  return new ApiError(message, {
    status: response.status,
    retryAfterS: Number.isNaN(retryAfter) ? null : retryAfter,
  });
}
