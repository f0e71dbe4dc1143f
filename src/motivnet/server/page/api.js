// The server's routes and their errors. URLs are relative: a proxy may serve the page below a path.

import { wait } from "./dom.js";

const TRIES = 4;
const LONGEST_WAIT_S = 10;
const TIMEOUT_MS = 90_000;
// Others may come first, and the server has its own limit.
const VIDEO_TIMEOUT_MS = 900_000;

const KINDS = { 401: "token", 408: "slow", 413: "large", 429: "busy", 503: "busy", 504: "slow" };

/**
 * A request that failed. `kind` is one of: token, large, busy, slow, gone (no server), broken (the connection broke,
 * but the server answers), failed (anything else).
 */
export class ApiError extends Error {
  constructor(kind, detail, retryAfterS = null) {
    super(detail);
    this.kind = kind;
    this.retryAfterS = retryAfterS;
  }
}

export class Api {
  /** In memory only: it gives access to the server. */
  token = null;

  /** Return the server's description of its model. */
  async model() {
    const { models, notice } = await this.#request("v1/models", {});
    return { ...models[0], notice };
  }

  /** Return the result of one image. See #send. */
  predict(image, name, options) {
    return this.#send("v1/predict", image, name, options);
  }

  /** Return the result of one video, which has rows, and what those of photographs have. See #send. */
  async video(file, name, options) {
    const result = await this.#send("v1/video", file, name, { ...options, timeoutMs: VIDEO_TIMEOUT_MS });
    const { status, error } = result.rows.find((row) => row.status === "ok") ?? result.rows[0];
    return { ...result, status, error, faces: [] };
  }

  /** Return the result of one image with an attention map per face. See #send. */
  explain(image, name, options) {
    return this.#send("v1/explain", image, name, options);
  }

  /**
   * Send one file. If the server is busy, retry a few times, after the delay that it asks for.
   * @param {object} options signal: aborts; tries: maximum; onWait: called with (seconds, try, tries) before a delay.
   */
  async #send(path, image, name, { signal = null, tries = TRIES, onWait = () => {}, timeoutMs = TIMEOUT_MS } = {}) {
    const body = new FormData();
    body.append("files", image, name);
    for (let attempt = 1; ; attempt += 1) {
      try {
        const { results } = await this.#request(path, { method: "POST", body }, signal, timeoutMs);
        return results[0];
      } catch (error) {
        if (error.kind !== "busy" || attempt >= tries) throw error;
        const seconds = Math.min(error.retryAfterS ?? 2 ** (attempt - 1), LONGEST_WAIT_S);
        onWait(seconds, attempt + 1, tries);
        await wait(seconds, signal);
      }
    }
  }

  async #request(path, options, signal = null, timeoutMs = TIMEOUT_MS) {
    const headers = this.token === null ? {} : { Authorization: `Bearer ${this.token}` };
    const timeout = AbortSignal.timeout(timeoutMs);
    const signals = signal === null ? timeout : AbortSignal.any([signal, timeout]);
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal: signals, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      if (timeout.aborted) throw new ApiError("slow", "no answer in time");
      throw (await this.#isThere())
        ? new ApiError("broken", "the connection broke")
        : new ApiError("gone", "no answer");
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer !== null) return answer;
    const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
    const detail = answer?.detail ?? `the answer was ${response.status} ${response.statusText}`;
    throw new ApiError(KINDS[response.status] ?? "failed", detail, Number.isFinite(seconds) ? seconds : null);
  }

  async #isThere() {
    try {
      return (await fetch("healthz", { signal: AbortSignal.timeout(5000), cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }
}
