// A video of the session: it plays in the browser, with the faces of the frame on show drawn on it.

import { byId } from "./dom.js";
import { fit, paint } from "./draw.js";
import { facesAt, framesOf, Timeline } from "./timeline.js";

const NAMES = /\.(3gp|asf|avi|flv|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|mxf|ogv|ts|vob|webm|wmv)$/i;

export const isVideo = (file) => file.type.startsWith("video/") || NAMES.test(file.name ?? "");

export class Player {
  #clip = byId("clip");
  #frames = [];
  #timeline = new Timeline((time) => {
    this.#clip.currentTime = time;
  });
  #onFaces;
  #size = null;

  /** @param {function} onFaces called with the faces of the frame on show, and the size of the frame. */
  constructor(onFaces) {
    this.#onFaces = onFaces;
    for (const kind of ["timeupdate", "seeked", "loadeddata"]) this.#clip.addEventListener(kind, () => this.#update());
    // While it plays, more often than the browser tells the time.
    this.#clip.addEventListener("play", () => this.#follow());
  }

  get on() {
    return this.#frames.length > 0;
  }

  /**
   * Show an entry of the history.
   * @param {function} onFail called if this browser cannot play it; the timeline is there in any case.
   */
  show({ file, result }, onFail) {
    this.stop();
    this.#frames = framesOf(result.rows);
    const { image_width: width, image_height: height } = result.rows[0];
    this.#size = { width, height };
    fit(byId("player"), this.#size);
    this.#clip.src = URL.createObjectURL(file);
    this.#clip.addEventListener("error", onFail, { once: true });
    this.#timeline.show(this.#frames);
    this.#update();
  }

  stop() {
    this.#clip.pause();
    if (this.#clip.src) URL.revokeObjectURL(this.#clip.src);
    this.#clip.removeAttribute("src");
    this.#frames = [];
    this.#timeline.show([]);
  }

  /** Draw the boxes anew, as the size of the page or the selection has changed. */
  paint(selected) {
    const faces = facesAt(this.#frames, this.#clip.currentTime);
    paint(byId("clip-overlay"), { ...this.#size, image: null }, faces, { selected });
  }

  #follow() {
    if (this.#clip.paused || !this.on) return;
    this.#update();
    requestAnimationFrame(() => this.#follow());
  }

  #update() {
    if (!this.on) return;
    this.#timeline.mark(this.#clip.currentTime);
    this.#onFaces(facesAt(this.#frames, this.#clip.currentTime), this.#size);
  }
}
