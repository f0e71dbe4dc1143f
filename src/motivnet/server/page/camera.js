// The camera: its stream, pictures from it, and a loop that sends one at a time.

import { wait } from "./dom.js";

const MIN_INTERVAL_MS = 250;
const LIVE_SIDE = 640;
const MAX_FAILURES = 5;

export class Camera {
  #video;
  #stream = null;
  #devices = [];
  #live = null;

  constructor(video) {
    this.#video = video;
  }

  get on() {
    return this.#stream !== null;
  }

  get live() {
    return this.#live !== null;
  }

  get size() {
    return { width: this.#video.videoWidth, height: this.#video.videoHeight };
  }

  /** Number of cameras; known once one is on. */
  get count() {
    return this.#devices.length;
  }

  /**
   * Turn on, or switch to another camera.
   * @param {function} onEnd called if the camera is disconnected.
   * @throws {Error} with a message for the user.
   */
  async start(onEnd, deviceId = null) {
    if (!navigator.mediaDevices) throw new Error("Browsers allow the camera only on pages from https:// or localhost.");
    this.stop();
    const wanted = {
      width: { ideal: 1280 },
      height: { ideal: 720 },
      ...(deviceId ? { deviceId: { exact: deviceId } } : {}),
    };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      throw new Error(WHY[error.name] ?? `The camera cannot be used: ${error.message}`, { cause: error });
    }
    this.#stream.getVideoTracks()[0].addEventListener("ended", onEnd);
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    this.#devices = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");
  }

  /** Switch to the next camera. */
  next(onEnd) {
    const current = this.#stream?.getVideoTracks()[0].getSettings().deviceId;
    const place = this.#devices.findIndex((device) => device.deviceId === current);
    return this.start(onEnd, this.#devices[(place + 1) % this.#devices.length].deviceId);
  }

  stop() {
    this.stopLive();
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /** Return the current picture as a JPEG and as pixels. */
  async picture(largestSide = Infinity, quality = 0.92) {
    const { width, height } = this.size;
    const shrink = Math.min(1, largestSide / Math.max(width, height));
    const image = document.createElement("canvas");
    image.width = Math.round(width * shrink);
    image.height = Math.round(height * shrink);
    image.getContext("2d").drawImage(this.#video, 0, 0, image.width, image.height);
    const blob = await new Promise((resolve) => image.toBlob(resolve, "image/jpeg", quality));
    return { blob, picture: { image, width: image.width, height: image.height } };
  }

  /**
   * Send picture after picture until `stopLive`: never two at once, never faster than the minimum interval, none while
   * the tab is hidden. Stops after several failures in a row, or an error that a retry does not resolve.
   * @param {function} send (blob, signal) => result.
   * @param {function} onResult called with (result, picture, milliseconds).
   * @param {function} onFail called with the error that stopped it.
   */
  async startLive(send, onResult, onFail) {
    this.stopLive();
    const own = new AbortController();
    this.#live = own;
    let failures = 0;
    while (!own.signal.aborted) {
      const begun = performance.now();
      let pause = MIN_INTERVAL_MS / 1000;
      try {
        if (!document.hidden) {
          const { blob, picture } = await this.picture(LIVE_SIDE, 0.85);
          const result = await send(blob, own.signal);
          if (own.signal.aborted) return;
          failures = 0;
          onResult(result, picture, performance.now() - begun);
        }
      } catch (error) {
        if (own.signal.aborted) return;
        failures += 1;
        if (error.kind !== "busy" || failures >= MAX_FAILURES) {
          this.stopLive();
          onFail(error);
          return;
        }
        pause = error.retryAfterS ?? failures;
      }
      await wait(Math.max(0, pause - (performance.now() - begun) / 1000), own.signal).catch(() => {});
    }
  }

  stopLive() {
    this.#live?.abort();
    this.#live = null;
  }
}

const WHY = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser's settings, and try again.",
  NotFoundError: "No camera found.",
  NotReadableError: "The camera is used by another program.",
};
