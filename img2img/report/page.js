// ---- Scores and their baselines
// Maps, not objects: a score may be called "constructor".
const METRICS = new Map(Object.entries({
  l1: ["L1", "lower"], psnr: ["PSNR, dB", "higher"], ssim: ["SSIM", "higher"], ms_ssim: ["MS-SSIM", "higher"], lpips: ["LPIPS", "lower"], fid: ["FID", "lower"], kid: ["KID", "lower"],
  lab_histogram_l: ["Lab histogram, L", "higher"], lab_histogram_a: ["Lab histogram, a", "higher"], lab_histogram_b: ["Lab histogram, b", "higher"],
  accuracy: ["accuracy", "higher"], pixel_accuracy: ["per-pixel accuracy", "higher"], class_accuracy: ["per-class accuracy", "higher"], class_iou: ["class IoU", "higher"],
}));
const BASELINES = [["_source", "source handed back", "handing back the source"],
  ["_mean_target", "mean training target", "always answering with the mean training target"],
  ["_most_frequent", "most frequent class", "always answering with the most frequent class"]];
const scoreSeries = new Map(run.validation.map((s) => [s.name, s]));
const final = (s) => s.values[s.values.length - 1];
const isBaseline = (name) => scoreSeries.has(name) && scoreSeries.get(name).baseline;
const scores = run.validation.filter((s) => !s.baseline).map((s) => ({
  ...s, scores: true, smoothed: [], title: (METRICS.get(s.name) || [s.name])[0],
  // Older runs do not say it.
  better: s.higher === null ? (METRICS.get(s.name) || [])[1] : s.higher ? "higher" : "lower",
  baselines: BASELINES.filter(([end]) => isBaseline(s.name + end))
    .map(([end, name, words]) => ({ name, words, value: final(scoreSeries.get(s.name + end)) })).filter((b) => b.value !== null),
}));
const setting = (table, name) => run.recipe.filter((g) => g.table === table).flatMap((g) => g.rows).filter(([key]) => key === name).map(([, value]) => value)[0];
const keptBy = run.best ? setting("train", "best_by") ?? scores[0]?.name : undefined;
for (const s of scores) {
  const finite = s.values.filter((v) => v !== null);
  if (!s.better || !finite.length) continue;
  s.bestPlace = s.values.indexOf(s.better === "lower" ? Math.min(...finite) : Math.max(...finite));
  if (s.steps.length < 2) continue;
  s.best = s.bestPlace;
  s.summary = `${s.better[0].toUpperCase()}${s.better.slice(1)} is better. Best: ${number(s.values[s.best])} at step ${count(s.steps[s.best])}${s.name === keptBy ? ", kept as best.safetensors" : ""}.`;
}
// At the top stand a few; all are in the table.
const chief = scores.length > 4 ? scores.filter((s, i) => i < 3 || s.name === keptBy) : scores;
function verdict({ title, better, baselines, ...s }) {
  const value = final(s), beaten = baselines.filter((b) => better === "higher" ? value > b.value : value < b.value);
  if (value === null || !baselines.length) return "";
  const meanings = { l1: ", the mean absolute difference between images in [0, 1],", accuracy: ", the share of pixels given their class," };
  const meaning = Object.hasOwn(meanings, s.name) ? meanings[s.name] : "";
  const others = baselines.map((b) => `${b.words} scores ${number(b.value)}`).join(", ");
  const result = beaten.length === baselines.length ? `better than ${beaten.length > 1 ? "both" : "that"}`
    : beaten.length ? `better than ${beaten[0].words}, but not than ${baselines.find((b) => !beaten.includes(b)).words}` : `no better than ${baselines.length > 1 ? "either" : "that"}`;
  return `On the validation pairs, ${title}${meaning} is ${number(value)} (${better || "lower"} is better). For comparison: ${others}. The model is ${result}.`;
}

function bestKept() {
  const s = scores.find((s) => s.name === keptBy);
  return s?.bestPlace === undefined ? "" : `best.safetensors holds the model of step ${count(s.steps[s.bestPlace])}, the best by validation ${s.title} (${number(s.values[s.bestPlace])}).`;
}

// ---- The page, top to bottom
const { step, images, elapsed_s: elapsed, images_per_s: speed } = run.progress;
document.title = run.name;
root.dataset.state = "drawing";
const facts = run.recipe.flatMap((g) => g.rows.filter(([key]) => key === "name" && g.table).map(([, value]) => `${g.table} ${value}`));
const figures = [];
const figure = (name, value, unit = "") => figures.push(el("div", {}, el("dt", {}, name), el("dd", {}, el("span", { class: "value" }, value), el("span", { class: "unit" }, unit))));
if (step !== undefined) figure("Steps", count(step), images ? `${count(images)} images` : "");
if (elapsed !== undefined) figure("Training time", duration(elapsed));
if (speed) figure("Speed", speed < 1000 ? speed.toPrecision(3) : count(speed), "images/s, median");
for (const s of chief) figure(`Validation ${s.title}`, final(s) === null ? "not finite" : number(final(s)),
  (s.better ? `${s.better} is better` : "") + (s.steps[s.steps.length - 1] < step ? `, at step ${count(s.steps[s.steps.length - 1])}` : ""));
document.getElementById("header").append(el("h1", {}, run.name), el("p", { class: "muted" }, facts.join(" · ")),
  el("dl", { class: "figures" }, ...figures), ...[...chief.map(verdict), bestKept()].filter(Boolean).map((text) => el("p", {}, text)),
  ...run.remarks.map((text) => el("p", { class: "small warn" }, text)));

const howToZoom = [el("span", { class: "hint mouse" }, "Drag across a chart to zoom in (or Ctrl and the wheel); a double click shows the whole run. "), el("span", { class: "hint touch" }, "Two fingers zoom; a double tap shows the whole run. "), el("span", { class: "hint" }, "All charts follow.")];
section("Samples", ...(run.samples.length ? [
  el("p", { class: "small muted" }, run.samples_found > run.samples.length ? `${run.samples.length} of ${count(run.samples_found)} sheets, evenly chosen; all are in samples/. ` : "",
    run.pairs.length ? "" : "Each row: source, output, target. ",
    el("span", { class: "hint mouse" }, run.samples.length > 1 ? "The arrow keys step through them. " : ""), el("span", { class: "hint" }, run.pairs.length ? "Lay one image over the other and drag the divider." : "")), ...samplesView()]
  : [el("p", { class: "muted" }, "No samples were written yet.")]));

// Columns for the baselines that some score has, and for the best where there was a choice.
const compared = BASELINES.filter(([, name]) => scores.some((s) => s.baselines.some((b) => b.name === name)));
const anyBest = scores.some((s) => s.best !== undefined);
const at = (v, step) => [number(v), el("span", { class: "small muted" }, ` at step ${count(step)}`)];
const scoreCells = (s) => [
  [s.title, ...(s.better ? [el("span", { class: "small muted" }, ` ${s.better} is better`)] : [])], at(final(s), s.steps[s.steps.length - 1]),
  ...(anyBest ? [s.best === undefined ? ["–"] : at(s.values[s.best], s.steps[s.best])] : []),
  ...compared.map(([, name]) => { const b = s.baselines.find((b) => b.name === name); return [b ? number(b.value) : "–"]; })];
const curves = scores.filter((s) => s.steps.length > 1);
section("Validation", ...(curves.length ? [el("p", { class: "small muted" }, ...howToZoom), ...chartPanel(curves, { name: "Validation scores" })] : []),
  ...(scores.length ? [el("table", { class: "scores" },
    el("tr", {}, ...["Score", "Model", ...(anyBest ? ["Best"] : []), ...compared.map(([, name]) => name[0].toUpperCase() + name.slice(1))].map((t) => el("th", { scope: "col" }, t))),
    ...scores.map((s) => el("tr", {}, ...scoreCells(s).map((parts, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, ...parts)))))]
    : [el("p", { class: "muted" }, "No validation scores were logged yet.")]));

// The generator's are logged times their weight, the discriminator's as they are.
const judged = setting("discriminator", "conditional") === "false" ? "images" : "pairs";
const ABOUT = new Map([["d_real", `discriminator on real ${judged}`], ["d_fake", `discriminator on made ${judged}`], ["d_penalty", "discriminator, gradient penalty"]]);
const losses = run.losses.map((s) => {
  const weight = setting("losses", `${s.name}.weight`);
  return { ...s, title: s.name, weighted: weight !== undefined, about: weight === undefined ? ABOUT.get(s.name) : `weight ${+weight}` };
});
const weights = losses.some((s) => s.weighted) ? "A loss with a weight is logged times its weight. " : "";
const scales = losses.some((s) => s.weighted && s.name === "l1") && scoreSeries.has("l1") ? "The loss l1 is of values in [−1, 1], the score L1 of images in [0, 1] and without a weight. " : "";
section("Losses", ...(losses.length ? [
  el("p", { class: "small muted" }, weights, scales, losses.some((s) => s.smoothed.length) ? "Thin: values as logged. Thick: centred moving average. " : "", ...(curves.length ? [] : howToZoom)),
  ...chartPanel(losses, { name: "Losses", one: true })] : [el("p", { class: "muted" }, "No losses were logged yet.")]));

const group = (title, rows) => el("div", { class: "group" }, ...(title ? [el("h3", {}, title)] : []),
  el("table", {}, ...rows.map(([key, value]) => el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, value)))));
const tables = run.recipe.filter((g) => g.rows.length);
section("Settings", tables.length ? el("div", { class: "columns" }, ...tables.map((g) => group(g.table || "run", g.rows)))
  : el("p", { class: "muted" }, "There is no readable recipe.toml in this run directory."));
section("Environment", run.environment.length ? el("div", { class: "columns" }, group("", run.environment))
  : el("p", { class: "muted" }, "There is no readable environment.json in this run directory."));

panels.forEach((p) => p.draw());  // now that they are in the page and have a width
window.addEventListener("beforeprint", () => panels.forEach((p) => p.draw(true)));
window.addEventListener("afterprint", () => panels.forEach((p) => p.draw()));
window.addEventListener("resize", redraw);
if (root.dataset.state !== "failed") root.dataset.state = "ready";
