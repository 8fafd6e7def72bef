// ---- Samples: the same ones at every step, side by side or one laid over the other
function samplesView() {
  const { samples, pairs } = run;
  const place = el("output", { class: "small" }), sheet = el("img", { class: "sheet", alt: "" });
  const slider = el("input", { type: "range", min: 0, max: samples.length - 1, step: 1, "aria-label": "Training step" });
  const [previous, next] = ["Previous", "Next"].map((text) => el("button", { type: "button" }, text));
  const wide = pairs.reduce((most, p) => Math.max(most, p.target.width), 1), outputs = [], dividers = [];
  // Tiny images are enlarged by whole numbers: blurring would hide what they show.
  const enlarged = (room) => wide * Math.max(1, Math.min(8, Math.floor(room / wide)));
  const sizes = `--side: ${enlarged(341)}px; --over: ${enlarged(516)}px`;
  const box = el("div", { class: "pairs", style: sizes }), heads = el("div", { class: "heads small muted", "aria-hidden": "true", style: sizes }, ...["source", "output", "target"].map((name) => el("span", { class: name }, name)));

  pairs.forEach((pair, i) => {
    const picture = (kind, { src, width, height }) => el("img", { class: kind, src, width, height, decoding: "sync", draggable: "false", style: `aspect-ratio: ${pair.target.width} / ${pair.target.height}`, alt: `${kind} of sample ${i + 1}` });
    outputs.push(picture("output", { src: "data:,", width: pair.target.width, height: pair.target.height }));
    dividers.push(el("div", { class: "divider", tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 100 }));
    box.append(el("div", { class: "pair" }, picture("source", pair.source), outputs[i], picture("target", pair.target), dividers[i]));
  });

  let at = 50;  // of all dividers, in percent from the left
  function divide(percent) {
    at = Math.max(0, Math.min(100, percent));
    box.style.setProperty("--at", `${at}%`);
    for (const d of dividers) {
      const [one, two] = box.dataset.view === "source" ? ["source", "output"] : ["output", "target"];
      d.setAttribute("aria-label", `Divider between ${one} and ${two}`);
      d.setAttribute("aria-valuenow", Math.round(at));
      d.setAttribute("aria-valuetext", `${Math.round(at)}% ${one}, ${100 - Math.round(at)}% ${two}`);
    }
  }
  for (const d of dividers) {
    const follow = (event) => { const { left, width } = d.getBoundingClientRect(); divide((event.clientX - left) / width * 100); };
    d.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      d.setPointerCapture(event.pointerId);
      follow(event);
    });
    d.addEventListener("pointermove", (event) => { if (d.hasPointerCapture(event.pointerId)) follow(event); });
    d.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
      if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      divide(at + moves[event.key]);
    });
  }
  function choose(how) {
    box.dataset.view = heads.dataset.view = how;
    const shown = how === "side" ? enlarged(341) : enlarged(516);
    box.style.setProperty("--rendering", shown > wide ? "pixelated" : "auto");
    divide(at);
  }
  const choice = el("fieldset", { class: "choice" }, el("legend", { class: "unseen" }, "View"), ...[["side", "Side by side"], ["output", "Output | target"], ["source", "Source | output"]].map(([how, text]) => {
    const radio = el("input", { type: "radio", name: "view", value: how, ...(how === "side" ? { checked: "" } : {}) });
    radio.addEventListener("change", () => choose(how));
    return el("label", {}, radio, text);
  }));

  let current = -1;
  function go(i) {
    current = Math.max(0, Math.min(samples.length - 1, i));
    const s = samples[current], whole = s.sheet;
    if (whole) {
      const scale = Math.max(1, Math.min(4, Math.floor(800 / whole.width)));
      make(sheet, { src: whole.src, width: whole.width * scale, height: whole.height * scale, alt: `Source, output and target at step ${count(s.step)}` }, []);
      sheet.style.imageRendering = scale > 1 ? "pixelated" : "auto";
    } else s.outputs.forEach(({ src }, n) => make(outputs[n], { src, alt: `output of sample ${n + 1} at step ${count(s.step)}` }, []));
    sheet.hidden = !whole;
    for (const part of [box, heads, choice]) part.hidden = Boolean(whole);
    place.textContent = `Step ${count(s.step)} (${current + 1} of ${samples.length})`;
    slider.value = current;
    slider.setAttribute("aria-valuetext", place.textContent);
    [previous.disabled, next.disabled] = [current === 0, current === samples.length - 1];
  }
  slider.addEventListener("input", () => go(+slider.value));
  previous.addEventListener("click", () => go(current - 1));
  next.addEventListener("click", () => go(current + 1));
  document.addEventListener("keydown", (event) => {
    // With Alt or Command an arrow is the browser's own; what has the focus may want it for itself.
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.closest?.("input, [role=slider]")) return;
    if (event.key === "ArrowLeft") go(current - 1);
    if (event.key === "ArrowRight") go(current + 1);
  });
  let before = 0;
  window.addEventListener("beforeprint", () => { before = current; go(samples.length - 1); });
  window.addEventListener("afterprint", () => go(before));
  choose("side");
  go(samples.length - 1);
  const steps = samples.length > 1 ? [previous, next, slider] : [];
  return [el("div", { class: "controls" }, el("div", { class: "steps" }, ...steps, place), ...(pairs.length ? [choice, heads] : [])), box, sheet];
}
