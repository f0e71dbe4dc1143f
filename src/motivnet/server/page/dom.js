// Elements, number formats, and waiting.

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Create an element. Children that are strings become text, never markup: file names are untrusted.
 * An attribute that is true is set without a value, one that is false or null is not set.
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const PERCENT = new Intl.NumberFormat("en", { style: "percent" });
const TENTHS = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 1, minimumFractionDigits: 1 });
const NUMBER = new Intl.NumberFormat("en");

/** Format a fraction as a percentage; "<1%" instead of "0%" if it is not zero. */
export const percent = (share) => (share > 0 && share < 0.005 ? "<1%" : PERCENT.format(share));
export const percentTenths = (share) => TENTHS.format(share);
export const number = (value) => NUMBER.format(value);
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
export const capitalised = (word) => word.charAt(0).toUpperCase() + word.slice(1);

/** Wait some seconds; rejects if aborted. */
export function wait(seconds, signal = null) {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** Format a number of bytes. */
export function bytes(size) {
  if (size < 1000) return plural(size, "byte");
  return size < 1_000_000 ? `${Math.round(size / 1000)} kB` : `${(size / 1_000_000).toFixed(1)} MB`;
}
