// ---- Charts
// One step axis for all charts, so that the same place means the same step everywhere.
const everyStep = [...run.losses, ...run.validation].flatMap((s) => s.steps);
const lastStep = everyStep.reduce((a, b) => Math.max(a, b), 1);
const firstStep = everyStep.reduce((a, b) => Math.min(a, b), lastStep);
const axisStart = firstStep < lastStep * 0.5 ? 0 : Math.min(firstStep, lastStep - 1);
const view = { from: axisStart, to: lastStep };  // the part of it that is shown
let reading = null;  // the step that is pointed at
const panels = [];
const eachChart = (act) => panels.forEach((p) => p.charts.forEach(act));
let waiting = 0;
function redraw() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => panels.forEach((p) => p.draw()));
}
function zoom(from, to) {
  const all = lastStep - axisStart, span = Math.min(all, Math.max(Math.min(4, all), to - from));
  view.from = Math.max(axisStart, Math.min(lastStep - span, (from + to - span) / 2));
  view.to = view.from + span;
  redraw();
}
const isWhole = () => view.to - view.from >= lastStep - axisStart;
const wholeRun = () => zoom(axisStart, lastStep);
// That step keeps its place, or is brought into view.
function zoomAround(step, factor) {
  const at = Math.min(view.to, Math.max(view.from, step ?? (view.from + view.to) / 2));
  zoom(at - (at - view.from) * factor, at + (view.to - at) * factor);
}
function read(step) {
  reading = step;
  eachChart((c) => c.show());
}

// Steps are sorted: the first place of one that is not below.
function placeOf(steps, step) {
  let a = 0, b = steps.length;
  while (a < b) { const middle = (a + b) >> 1; if (steps[middle] < step) a = middle + 1; else b = middle; }
  return a;
}
function nearest(steps, step) {
  const i = Math.min(steps.length - 1, placeOf(steps, step));
  return i && step - steps[i - 1] < steps[i] - step ? i - 1 : i;
}

// The range of the values; a few extreme ones (a run that blew up once) must not flatten the rest.
function range(values, baselines, log) {
  const sorted = values.filter((v) => v !== null && (!log || v > 0)).map((v) => log ? Math.log10(v) : v).sort((a, b) => a - b);
  if (!sorted.length) return { low: 0, high: 1, cut: [] };
  const at = (q) => sorted[Math.round(q * (sorted.length - 1))];
  const [p1, p99] = [at(0.01), at(0.99)], room = 4 * (p99 - p1);
  let low = sorted[0], high = sorted[sorted.length - 1];
  if (!log && room > 0 && sorted.length >= 100) {
    if (high - p99 > room) high = p99 + (p99 - p1) / 4;
    if (p1 - low > room) low = p1 - (p99 - p1) / 4;
  }
  const cut = sorted.filter((v) => v < low || v > high);
  const reach = 2 * Math.max(high - low, 0.02 * Math.abs(high));  // one that is farther off would flatten the curve
  const near = baselines.filter((b) => b >= low - reach && b <= high + reach);
  [low, high] = [Math.min(low, ...near), Math.max(high, ...near)];
  if (!log && isWhole() && low > 0 && low < high * 0.5) low = 0;  // near enough to zero to be honest about it
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return { low: low === 0 && !log ? 0 : low - pad, high: high + pad, cut };
}

// Where the label of a level line covers no curve and no other label, if there is such a place:
// along the line, above it or below. `points` and `taken` are in pixels, `levels` the other lines.
const ruler = el("canvas").getContext("2d");
function labelPlace(text, level, { left, right, top, bottom }, points, levels, taken) {
  ruler.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
  const wide = ruler.measureText(text).width, found = [];
  for (const share of [1, 0, 0.75, 0.25, 0.5]) for (const above of [true, false]) {
    const x = left + 6 + share * Math.max(0, right - left - 6 - wide), y = level + (above ? -5 : 14);
    const box = { left: x - 5, right: x + wide + 5, top: y - 14, bottom: y + 7 };  // with room for dots
    const covers = points.some(([px, py]) => px > box.left && px < box.right && py > box.top && py < box.bottom)
      || taken.some((b) => b.left < box.right && b.right > box.left && b.top + 6 < box.bottom && b.bottom - 6 > box.top);
    if (!covers && y - 10 >= top - 8 && y + 3 <= bottom) found.push({ x, y, box, crossed: levels.some((l) => l > y - 11 && l < y + 3) });
  }
  const best = found.find((f) => !f.crossed) ?? found[0];
  if (best) taken.push(best.box);
  return best;
}

let clips = 0;
// One chart of one or more lines: { title, colour, steps, values, smoothed, scores, best }.
function chart(panel, lines, { title, about = "", baselines = [], summary = "", large = false }) {
  const readout = el("span", { class: "readout muted" }), note = el("div", { class: "note small muted" });
  const plot = el("div", { class: "plot", tabindex: 0, role: "slider", "aria-label": `${title}, by step`, "aria-description": "Arrow keys read the curve; plus and minus zoom; Escape shows the whole run." });
  const swatch = large ? [] : [el("span", { class: "swatch", style: `--c: ${lines[0].colour}` })];
  const figure = el("figure", { class: large ? "chart large" : "chart" }, el("figcaption", {}, el("span", {}, el("strong", {}, ...swatch, title), about && el("span", { class: "about muted" }, ` ${about}`)), readout), plot, note);
  for (const s of lines.filter((s) => s.broken)) figure.append(el("div", { class: "small warn" },
    `${large ? `${s.title}: ` : ""}${count(s.broken.count)} logged ${s.broken.count === 1 ? "value is not a finite number" : "values are not finite numbers"}, first at step ${count(s.broken.first)}.`));
  const drawsSmooth = (s) => panel.state.smooth && s.smoothed.length > 0;
  const drawsRaw = (s) => panel.state.raw || !s.smoothed.length;
  let x, y, left, right, top, bottom, width, cursor, band, room = 0;
  const measure = () => { room = plot.clientWidth; };
  function draw(onPaper) {
    // Drawn at its size on the screen, not scaled into it, so that text is equally large everywhere.
    width = onPaper ? (large ? 2 * onPaper : onPaper) : Math.max(220, room || 480);
    const height = Math.round(Math.min(large ? 360 : 240, 130 + width * (large ? 0.22 : 0.16))), { log } = panel.state;
    const spans = lines.map((s) => [Math.max(0, placeOf(s.steps, view.from) - 1), Math.min(s.steps.length, placeOf(s.steps, view.to) + 2)]);
    const inside = lines.flatMap((s, i) => {
      const line = drawsRaw(s) ? s.values : s.smoothed, seen = line.filter((_, j) => s.steps[j] >= view.from && s.steps[j] <= view.to);
      return seen.length > 1 ? seen : line.slice(...spans[i]);  // between two points there is a line as well
    });
    let { low, high, cut } = range(inside, isWhole() ? baselines.map((b) => b.value) : [], log);
    if (log) [low, high] = [Math.max(1e-300, 10 ** low), 10 ** high];
    const place = (v) => log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
    const yTicks = (log ? logTicks : ticks)(low, high, 6);
    left = 10 + 6.6 * Math.max(4, ...yTicks.map((t) => t.text.length));
    const above = baselines.filter((b) => b.value > high), below = baselines.filter((b) => b.value < low);
    [right, top, bottom] = [width - 8, 8 + 15 * above.length, height - 24 - 15 * below.length];
    x = (step) => left + (right - left) * (step - view.from) / (view.to - view.from);
    y = (v) => Math.min(bottom, Math.max(top, bottom - (bottom - top) * place(v)));
    const graph = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const t of yTicks) {
      graph.append(svg("line", { class: "grid", x1: left, x2: right, y1: y(t.v), y2: y(t.v) }),
        svg("text", { class: "y", x: left - 7, y: y(t.v) + 4, "text-anchor": "end" }, t.text));
    }
    for (const t of ticks(view.from, view.to, Math.max(2, Math.min(6, width / 90)))) {
      if (Number.isInteger(t.v)) graph.append(svg("text", { class: "x", x: x(t.v), y: height - 6, "text-anchor": x(t.v) > right - 14 ? "end" : "middle" }, t.text));
    }
    const clip = `inside-${clips++}`, curves = svg("g", { "clip-path": `url(#${clip})` });
    graph.append(svg("clipPath", { id: clip }, svg("rect", { x: left - 5, y: 0, width: right - left + 13, height: bottom + 6 })));
    const within = baselines.filter((b) => b.value >= low && b.value <= high), unlabelled = [], taken = [], points = lines.flatMap((s, i) => dense(s, ...spans[i]));
    for (const b of within) graph.append(svg("line", { class: "base", x1: left, x2: right, y1: y(b.value), y2: y(b.value) }));
    for (const b of within) {
      const text = `${b.name} ${number(b.value)}`, others = within.filter((o) => o !== b).map((o) => y(o.value));
      const found = labelPlace(text, y(b.value), { left, right, top, bottom }, points, others, taken);
      if (found) graph.append(svg("text", { class: "label", x: found.x, y: found.y }, text));
      else unlabelled.push(text);
    }
    const atEdge = (b, y, arrow) => graph.append(svg("text", { class: "label edge", x: right, y, "text-anchor": "end" }, `${b.name} ${number(b.value)} ${arrow}`));
    above.forEach((b, i) => atEdge(b, 11 + 15 * i, "↑"));
    below.forEach((b, i) => atEdge(b, bottom + 15 + 15 * i, "↓"));
    lines.forEach((s, i) => {
      const style = `--c: ${s.colour}`, [a, b] = spans[i];
      const path = (line, name) => curves.append(svg("path", { class: name, style, d: trace(s.steps, line, a, b) }));
      if (drawsRaw(s)) path(s.values, s.scores ? "scores" : drawsSmooth(s) ? "raw" : s.smoothed.length ? "raw alone" : "smooth");
      if (drawsSmooth(s)) path(s.smoothed, "smooth");
      const dot = (j, attributes) => usable(s.values[j]) && curves.append(svg("circle", { style, cx: x(s.steps[j]), cy: y(s.values[j]), ...attributes }));
      if ((s.scores && b - a <= 40) || s.steps.length === 1) for (let j = a; j < b; j++) dot(j, { class: "dot", r: 3.5 });
      if (s.best !== undefined) dot(s.best, { class: "best", r: 7 });
    });
    cursor = svg("g", { class: "cursor" });
    band = svg("rect", { class: "band", y: top, height: bottom - top, x: left, width: 0 });
    graph.append(curves, cursor, band);
    plot.replaceChildren(graph);
    const hidden = log ? inside.filter((v) => v !== null && v <= 0).length : 0;
    note.textContent = [summary, unlabelled.length ? `Dashed: ${unlabelled.join(", ")}.` : "", hidden ? "Values that are not above zero have no place on a log scale." : "",
      cut.length > 1 ? `Outliers from ${number(cut[0])} to ${number(cut[cut.length - 1])} are drawn at the edge.` : cut.length ? `An outlier of ${number(cut[0])} is drawn at the edge.` : ""].filter(Boolean).join(" ");
    for (const [key, value] of Object.entries({ valuemin: Math.ceil(view.from), valuemax: Math.floor(view.to) })) plot.setAttribute(`aria-${key}`, value);
    show();
  }
  const usable = (v) => v !== null && v !== undefined && (!panel.state.log || v > 0);
  // A missing value leaves a gap; a value between two gaps is a line of no length, that is, a dot.
  function trace(steps, line, a, b) {
    let d = "", pen = false;
    for (let i = a; i < b; i++) {
      if (!usable(line[i])) { pen = false; continue; }
      d += `${pen ? "L" : "M"}${x(steps[i]).toFixed(1)} ${y(line[i]).toFixed(1)}${pen ? "" : "h0"}`;
      pen = true;
    }
    return d;
  }
  // Places along a curve as it is drawn, so close together that no label fits between two.
  function dense(s, a, b) {
    const line = drawsSmooth(s) ? s.smoothed : s.values, found = [];
    for (let i = a; i < b; i++) {
      if (!usable(line[i])) continue;
      const [px, py] = [x(s.steps[i]), y(line[i])], joined = i > a && usable(line[i - 1]);
      const [fromX, fromY] = joined ? [x(s.steps[i - 1]), y(line[i - 1])] : [px, py], parts = Math.max(1, Math.ceil(Math.hypot(px - fromX, py - fromY) / 6));
      for (let j = 1; j <= parts; j++) found.push([fromX + (px - fromX) * j / parts, fromY + (py - fromY) * j / parts]);
    }
    if (usable(s.values[s.best])) for (const [dx, dy] of [[-6, 0], [6, 0], [0, -6], [0, 6]]) found.push([x(s.steps[s.best]) + dx, y(s.values[s.best]) + dy]);
    return found;
  }
  function describe(step) {
    const places = lines.map((s) => nearest(s.steps, step));
    const value = (s, i) => large ? `${s.title} ${number((drawsSmooth(s) ? s.smoothed : s.values)[i])}`
      : `${number(s.values[i])}${drawsSmooth(s) && s.smoothed[i] !== null ? `, smoothed ${number(s.smoothed[i])}` : ""}`;
    return `step ${count(lines[0].steps[places[0]])}: ${lines.map((s, i) => value(s, places[i])).join(", ")}`;
  }
  function show() {
    if (!cursor) return;  // a chart that leaves the page loses the focus before the next is drawn
    const at = reading ?? view.to;
    readout.textContent = describe(at);
    plot.setAttribute("aria-valuenow", Math.round(at));
    plot.setAttribute("aria-valuetext", readout.textContent);
    cursor.replaceChildren();
    if (reading === null) return;
    const found = lines.map((s) => ({ s, i: nearest(s.steps, reading) })).filter(({ s, i }) => s.steps[i] >= view.from && s.steps[i] <= view.to);
    if (found.length) cursor.append(svg("line", { x1: x(found[0].s.steps[found[0].i]), x2: x(found[0].s.steps[found[0].i]), y1: top, y2: bottom }));
    for (const { s, i } of found) {
      const v = drawsSmooth(s) ? s.smoothed[i] : s.values[i];
      if (usable(v)) cursor.append(svg("circle", { class: "dot", style: `--c: ${s.colour}`, r: 4.5, cx: x(s.steps[i]), cy: y(v) }));
    }
  }

  // A mouse drags a span. A finger reads the curve, since across is the only way it can; two zoom.
  const fingers = new Map();
  let start = null, held = null;
  const placeIn = (clientX) => { const box = plot.getBoundingClientRect(); return (clientX - box.left) * width / box.width; };
  const stepAt = (px) => view.from + (px - left) / (right - left) * (view.to - view.from);
  const within = (px) => Math.max(left, Math.min(right, px));
  plot.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    plot.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, placeIn(event.clientX));
      held = fingers.size === 2 ? [...fingers].map(([id, px]) => ({ id, step: stepAt(px) })) : null;
    } else start = within(placeIn(event.clientX));
    read(stepAt(placeIn(event.clientX)));
  });
  plot.addEventListener("pointermove", (event) => {
    const px = placeIn(event.clientX);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, px);
    if (held) {  // the steps that were below the two fingers stay there
      const [one, two] = held.map(({ id }) => fingers.get(id));
      const scale = (held[1].step - held[0].step) / (two - one);
      if (scale > 0 && Number.isFinite(scale)) zoom(held[0].step - (one - left) * scale, held[0].step + (right - one) * scale);
      return;
    }
    if (start !== null) make(band, { x: Math.min(start, within(px)), width: Math.abs(within(px) - start) }, []);
    read(stepAt(px));
  });
  function release(event) {
    fingers.delete(event.pointerId);
    held = null;
    const from = start, to = within(placeIn(event.clientX));
    start = null;
    band.setAttribute("width", 0);
    if (event.type === "pointerup" && from !== null && Math.abs(to - from) > 6) zoom(stepAt(Math.min(from, to)), stepAt(Math.max(from, to)));
  }
  plot.addEventListener("pointerup", release);
  plot.addEventListener("pointercancel", release);
  plot.addEventListener("pointerleave", () => read(null));
  plot.addEventListener("blur", () => read(null));
  plot.addEventListener("dblclick", wholeRun);
  plot.addEventListener("wheel", (event) => {  // the plain wheel scrolls the page; a pinch on a touchpad comes with Ctrl
    const sideways = !isWhole() && Math.abs(event.deltaX) > Math.abs(event.deltaY), pixels = event.deltaMode ? 30 : 1;
    if (!event.ctrlKey && !event.metaKey && !sideways) return;
    event.preventDefault();
    const shift = event.deltaX * pixels / (right - left) * (view.to - view.from);
    if (sideways) zoom(view.from + shift, view.to + shift);
    else zoomAround(stepAt(within(placeIn(event.clientX))), Math.exp(Math.max(-0.7, Math.min(0.7, event.deltaY * pixels * 0.005))));
  }, { passive: false });
  plot.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { steps } = lines[0], moves = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10, Home: -steps.length, End: steps.length };
    if (event.key in moves) {
      const now = reading === null ? (event.key === "ArrowLeft" || event.key === "PageDown" ? view.to : view.from) : reading;
      const i = Math.max(0, Math.min(steps.length - 1, nearest(steps, now) + (reading === null && Math.abs(moves[event.key]) === 1 ? 0 : moves[event.key])));
      const shift = Math.min(0, steps[i] - view.from) + Math.max(0, steps[i] - view.to);
      if (shift) zoom(view.from + shift, view.to + shift);
      read(steps[i]);
    } else if (event.key === "+" || event.key === "=") zoomAround(reading, 0.5);
    else if (event.key === "-") zoomAround(reading, 2);
    else if (event.key === "Escape" || event.key === "0") wholeRun();
    else return;
    event.preventDefault();
  });
  return { figure, measure, draw, show };
}

// Charts, and above them what switches their curves and zooms: [{ title, steps, values, ... }].
function chartPanel(series, { name, one = false }) {
  const state = { one: false, raw: true, smooth: true, log: false, hidden: new Set() };
  const grid = el("div", { class: "charts" });
  series.forEach((s, i) => { s.colour = `var(--c${i % 8})`; });
  const self = { charts: [], state, draw };
  function draw(onPaper) {
    const whole = isWhole();
    [zoomOut.disabled, reset.disabled, zoomIn.disabled] = [whole, whole, view.to - view.from <= 4];
    self.charts.forEach((c) => c.measure());  // all before any is drawn: else each has the page laid out anew
    // On paper as wide as the columns of page.css; the browser tells a script no width before it prints.
    self.charts.forEach((c) => c.draw(onPaper && ([3, 6, 9].includes(self.charts.length) ? 240 : 370)));
  }
  function build() {
    const shown = series.filter((s) => !state.hidden.has(s));
    self.charts = state.one && shown.length ? [chart(self, shown, { title: name, large: true })] : shown.map((s) => chart(self, [s], s));
    grid.replaceChildren(...self.charts.map((c) => c.figure), ...(shown.length ? [] : [el("p", { class: "muted" }, "All curves are switched off.")]));
    grid.dataset.count = self.charts.length;
    legend.classList.toggle("needed", state.one);
    if (grid.isConnected) draw();
  }
  const key = (s) => {
    const button = el("button", { type: "button", class: "key", "aria-pressed": "true", style: `--c: ${s.colour}` }, el("span", { class: "swatch" }), s.title);
    button.addEventListener("click", () => {
      if (!state.hidden.delete(s)) state.hidden.add(s);
      button.setAttribute("aria-pressed", String(!state.hidden.has(s)));
      build();
    });
    return button;
  };
  const boxes = new Map();
  function keepOne(switched) {  // a chart of nothing helps nobody
    const other = { raw: "smooth", smooth: "raw" }[switched];
    if (other && !state.raw && !state.smooth) boxes.get(other).checked = state[other] = true;
  }
  const option = (text, what) => {
    const box = el("input", { type: "checkbox", ...(state[what] ? { checked: "" } : {}) });
    box.addEventListener("change", () => { state[what] = box.checked; keepOne(what); build(); });
    boxes.set(what, box);
    return el("label", {}, box, text);
  };
  const action = (text, label, act) => {
    const button = el("button", { type: "button", "aria-label": label }, text);
    button.addEventListener("click", act);
    return button;
  };
  const zoomOut = action("−", "Zoom out", () => zoomAround(null, 2)), zoomIn = action("+", "Zoom in", () => zoomAround(null, 0.5));
  const reset = action("Whole run", "Show the whole run", wholeRun);
  const legend = el("div", { class: "legend", role: "group", "aria-label": `Curves of ${name}` }, ...(series.length > 1 ? series.map(key) : []));
  const smoothable = series.some((s) => s.smoothed.length);
  const options = [...(one && series.length > 1 ? [option("In one chart", "one")] : []), ...(smoothable ? [option("As logged", "raw"), option("Smoothed", "smooth")] : []),
    ...(one ? [option("Log scale", "log")] : [])];
  const zooms = lastStep - axisStart > 4 ? [el("div", { class: "zoom", role: "group", "aria-label": "Zoom" }, zoomOut, zoomIn, reset)] : [];
  build();
  panels.push(self);
  return [el("div", { class: "tools" }, legend, el("div", { class: "options" }, ...options), ...zooms), grid];
}
