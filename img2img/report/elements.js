"use strict";
// Names and settings are anybody's text: every string becomes a text node, nothing is parsed as HTML.
const root = document.documentElement, main = document.getElementById("main");
window.addEventListener("error", (event) => {
  root.dataset.state = "failed";
  main.prepend(el("p", { class: "warn" }, "Part of this page could not be drawn: " + event.message));
});
const run = JSON.parse(document.getElementById("run").textContent);

function make(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function el(tag, attributes = {}, ...children) { return make(document.createElement(tag), attributes, children); }
function svg(tag, attributes = {}, ...children) { return make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children); }
function section(title, ...children) { main.append(el("section", { class: title.toLowerCase() }, el("h2", {}, title), ...children)); }

// ---- Numbers in words
const count = (n) => Math.round(n).toLocaleString("en");
function number(v) {
  if (v === null || v === undefined) return "not a finite number";
  const size = Math.abs(v);
  if (size && (size >= 1e6 || size < 1e-4)) return v.toExponential(2);
  return size >= 1000 ? count(v) : v.toPrecision(size < 0.1 ? 3 : 4);
}
function duration(seconds) {
  const s = Math.round(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}
// 1, 2 or 5 times a power of ten, which is what people read most easily off an axis.
function ticks(low, high, about) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((f) => f * power >= rough) || 10);
  const found = [];
  // Counted in whole steps: adding 0.1 up would end in 0.30000000000000004.
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  const digits = Math.min(20, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  const large = Math.max(Math.abs(low), Math.abs(high));
  const label = (v) => v === 0 ? "0" : large >= 1e7 || digits > 5 ? v.toExponential(1)
    : large >= 1e4 && step >= 1000 ? `${+(v / 1000).toFixed(1)}k` : v.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return found.map((v) => ({ v, text: label(v) }));
}
// On a logarithmic axis: powers of ten, with 2 and 5 between them where there is room; else as above.
function logTicks(low, high, about) {
  const decades = Math.log10(high / low);
  if (decades < 1) return ticks(low, high, about).filter((t) => t.v >= low);
  const every = Math.ceil(decades / about), found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    if (every > 1 && power % every) continue;
    for (const f of decades < about / 2 ? [1, 2, 5] : [1]) found.push(f * 10 ** power);
  }
  const label = (v) => v >= 1e5 || v < 1e-4 ? v.toExponential(0) : String(+v.toPrecision(1));
  return found.filter((v) => v >= low && v <= high).map((v) => ({ v, text: label(v) }));
}
