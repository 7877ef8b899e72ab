// The page of a model server: asks what the model takes and offers a way to give it. No dependencies.
"use strict";
const $ = (id) => document.getElementById(id);
const MAX_BARS = 12, MAX_ROWS = 200;
let model = null, key = "", shape = [], talk = [], running = null, strokes = 0, choices = 0;

function headers(more) {
  return Object.assign({"x-model": model ? model.name : ""}, key ? {authorization: "Bearer " + key} : {}, more);
}

async function call(path, body, type = "application/json", signal) {
  const sent = body === undefined ? {headers: headers({})} : {method: "POST", body, signal, headers: headers({"content-type": type})};
  if (!model) delete sent.headers["x-model"];
  const answer = await fetch(path, sent);
  if (answer.ok) return answer;
  const text = await answer.text();
  let found = text;
  try { const error = JSON.parse(text).error; found = error.text || error.message || error; } catch { /* no JSON */ }
  if (answer.status === 401) $("key-row").hidden = false;
  throw new Error(found);
}

function trouble(error) {
  if (error && error.name === "AbortError") return;
  $("trouble").hidden = !error;
  $("trouble").textContent = error ? error.message : "";
}

async function guard(work) {
  trouble(null);
  try { await work(); } catch (error) { trouble(error); }
}

async function begin() {
  const list = (await (await call("/v1/models")).json()).data;
  $("pick").replaceChildren(...list.map((each) => new Option(each.id, each.id)));
  $("pick-row").hidden = list.length < 2;
  await choose(list[0].id);
}

async function choose(name) {
  const mine = ++choices;
  // What the last model was offered is no question to this one, and no answer of it is shown any more.
  for (const id of ["draw", "table", "words", "json", "embed", "chat", "answer"]) $(id).hidden = true;
  if (running) running.abort();
  model = {name};
  const found = await (await call("/v1/model")).json();
  if (mine !== choices) return;
  model = found;
  $("title").textContent = document.title = model.name;
  const size = model.size_bytes > 1e6 ? Math.round(model.size_bytes / 1e6) + " MB" : Math.max(1, Math.round(model.size_bytes / 1e3)) + " kB";
  const takes = model.inputs.map((each) => `${each.name} ${each.dtype}[${each.shape.map((n) => n < 0 ? "any" : n).join(" × ")}]`);
  $("facts").textContent = [model.format, model.runtime, model.devices.join(", "), size, ...takes].join(" · ");
  offer(model.can, model.inputs);
}

function offer(can, inputs) {
  $("key-row").hidden = true;
  if (can.includes("complete")) {
    talk = [];
    $("talk").replaceChildren();
    $("chat").hidden = false;
    $("chat-title").textContent = can.includes("chat") ? "Chat" : "Go on with a text";
    $("curl").textContent = `curl ${location.origin}/v1/completions -d '{"model": "${model.name}", "prompt": "Once"}'`;
    return;
  }
  if (can.includes("embed")) $("embed").hidden = false;
  $("curl").textContent = `curl ${location.origin}/v1/model`;
  if (inputs.length === 1) offerOne(inputs[0]);
  else {
    $("json").hidden = can.includes("embed");
    $("values").value = JSON.stringify(Object.fromEntries(inputs.map((each) => [each.name, zeros(each.shape)])), null, 1);
  }
}

function offerOne(input) {
  const takes = model.takes || {kind: ""};
  shape = input.shape.slice(1);
  if (takes.kind === "text") {
    $("words").hidden = false;
    return;
  }
  if (takes.kind === "table" && takes.input_names.length) {
    // A column of texts enters as one input for each text: colour=red, colour=blue.
    const columns = [...new Set(takes.input_names.map((name) => name.split("=")[0]))];
    $("table").hidden = false;
    $("columns").textContent = "CSV with a header, a row a line";
    $("rows").value = columns.join(",") + "\n" + columns.map((name) => (takes.input_names.find((each) => each.startsWith(name + "=")) || "=0").split("=")[1]).join(",");
    return;
  }
  const channels = shape.length === 3 ? shape[0] : 1;
  if ((shape.length === 3 && (channels === 1 || channels === 3) || shape.length === 2) && shape.every((n) => n > 3 || n === channels) && shape.at(-1) <= 1024) {
    $("draw").hidden = false;
    $("draw-shape").textContent = shape.join(" × ");
    clear();
  } else if (shape.length === 1 && shape[0] > 0) {
    $("table").hidden = false;
    $("columns").textContent = `Comma-separated numbers, ${shape[0]} a row, a row a line`;
    $("rows").value = new Array(shape[0]).fill(0).join(", ");
  } else {
    $("json").hidden = false;
    $("values").value = JSON.stringify({[input.name]: zeros(input.shape)});
  }
}

function zeros(dims) {
  if (!dims.length) return 0;
  return Array.from({length: dims[0] < 0 ? 1 : dims[0]}, () => zeros(dims.slice(1)));
}

// -- drawing

const pen = $("pad").getContext("2d", {willReadFrequently: true});
let last = null;

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, 280, 280);
  strokes = 0;
}

function at(event) {
  const box = $("pad").getBoundingClientRect();
  return [(event.clientX - box.left) * 280 / box.width, (event.clientY - box.top) * 280 / box.height];
}

function stroke(event) {
  if (!last) return;
  const next = at(event);
  pen.strokeStyle = "#fff";
  pen.lineWidth = 20;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...next);
  pen.stroke();
  last = next;
}

$("pad").addEventListener("pointerdown", (event) => {
  $("pad").setPointerCapture(event.pointerId);
  last = at(event);
  stroke(event);
});
$("pad").addEventListener("pointermove", stroke);
for (const name of ["pointerup", "pointercancel"]) $("pad").addEventListener(name, () => {
  if (last) guard(predictDrawing);
  last = null;
});
$("clear").addEventListener("click", () => { clear(); $("answer").hidden = true; });
$("image").addEventListener("change", () => guard(async () => {
  const file = $("image").files[0];
  if (!file) return;
  const picture = await createImageBitmap(file);
  const scale = Math.min(280 / picture.width, 280 / picture.height);
  clear();
  pen.drawImage(picture, (280 - picture.width * scale) / 2, (280 - picture.height * scale) / 2, picture.width * scale, picture.height * scale);
  $("image").value = "";
  await predictDrawing();
}));

function pixels() {
  const [height, width] = shape.slice(-2), channels = shape.length === 3 ? shape[0] : 1;
  const small = document.createElement("canvas");
  small.width = width;
  small.height = height;
  const view = small.getContext("2d");
  view.imageSmoothingQuality = "high";
  view.drawImage($("pad"), 0, 0, width, height);
  const from = view.getImageData(0, 0, width, height).data, count = width * height;
  const values = new Float32Array(channels * count);
  for (let i = 0; i < count; i++) {
    if (channels === 3) for (let c = 0; c < 3; c++) values[c * count + i] = from[4 * i + c] / 255;
    else values[i] = (0.299 * from[4 * i] + 0.587 * from[4 * i + 1] + 0.114 * from[4 * i + 2]) / 255;
  }
  return values;
}

async function predictDrawing() {
  if (!model.inputs) return; // another model is on its way
  const mine = ++strokes, began = performance.now(), input = model.inputs[0], asked = choices;
  if (model.takes && model.takes.kind === "image" && model.takes.white) {
    const picture = await new Promise((done) => $("pad").toBlob(done, "image/png"));
    if (asked !== choices) return;
    const answers = (await (await call("/v1/predict", picture, "image/png")).json()).answers;
    if (mine === strokes) showAnswers(answers, performance.now() - began, asked);
    return;
  }
  const values = pixels();
  let outputs;
  if (input.dtype === "float32") {
    const answer = await fetch("/v1/predict", {method: "POST", body: values, headers: headers({
      "content-type": "application/octet-stream", "x-dtype": "float32", "x-shape": [1, ...shape].join(",")})});
    if (!answer.ok) throw new Error((await answer.json()).error.text);
    const name = answer.headers.get("x-output"), dtype = answer.headers.get("x-dtype");
    const data = await answer.arrayBuffer();
    outputs = {[name]: [Array.from(dtype === "float64" ? new Float64Array(data) : new Float32Array(data))]};
  } else {
    let next = 0;
    const nest = (dims) => dims.length ? Array.from({length: dims[0]}, () => nest(dims.slice(1))) : Math.round(255 * values[next++]);
    outputs = (await (await call("/v1/predict", JSON.stringify({inputs: [nest(shape)]}))).json()).outputs;
  }
  if (mine === strokes) show(outputs, performance.now() - began, asked);
}

// -- rows and JSON

async function predictJson(inputs) {
  const began = performance.now(), asked = choices;
  show((await (await call("/v1/predict", JSON.stringify({inputs}))).json()).outputs, performance.now() - began, asked);
}

function rows() {
  const lines = $("rows").value.split(/\r?\n/).filter((line) => line.trim());
  const numbers = lines.map((line) => line.split(/[,;\t]/).map(Number));
  if (numbers.length > 1 && numbers[0].some(Number.isNaN)) numbers.shift();
  const wrong = numbers.findIndex((row) => row.length !== shape[0] || row.some(Number.isNaN));
  if (wrong >= 0 || !numbers.length) throw new Error(`row ${wrong + 1}: ${shape[0]} numbers are expected`);
  return numbers;
}

async function predictRows() {
  if (!(model.takes && model.takes.kind === "table" && model.takes.input_names.length)) return predictJson(rows());
  await predictRaw($("rows").value, "text/csv");
}

async function predictRaw(body, type) {
  const began = performance.now(), asked = choices;
  showAnswers((await (await call("/v1/predict", body, type)).json()).answers, performance.now() - began, asked);
}

$("ask").addEventListener("click", () => guard(predictRows));
$("tell").addEventListener("click", () => guard(() => predictRaw($("text").value, "text/plain")));
$("csv").addEventListener("change", () => guard(async () => {
  if (!$("csv").files[0]) return;
  $("rows").value = (await $("csv").files[0].text()).slice(0, 1e6);
  $("csv").value = "";
  await predictRows();
}));
$("send").addEventListener("click", () => guard(() => predictJson(JSON.parse($("values").value))));

// -- answers

function softmax(row) {
  const most = Math.max(...row), powers = row.map((each) => Math.exp(each - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((each) => each / sum);
}

function bar(label, share, text, best) {
  const line = document.createElement("div");
  line.className = best ? "bar best" : "bar";
  const name = document.createElement("span"), gauge = document.createElement("progress"), value = document.createElement("output");
  name.textContent = label;
  gauge.max = 1;
  gauge.value = share;
  value.textContent = text;
  line.append(name, gauge, value);
  return line;
}

function show(outputs, took, asked) {
  if (asked !== choices) return;
  $("answer").hidden = false;
  $("took").textContent = took.toFixed(took < 10 ? 1 : 0) + " ms";
  const [first] = Object.values(outputs);
  const row = Array.isArray(first) && first.length === 1 && Array.isArray(first[0]) && typeof first[0][0] === "number" ? first[0] : null;
  const scores = row && row.length > 1 && row.length <= 1000;
  $("bars").replaceChildren();
  if (scores) {
    const sum = row.reduce((a, b) => a + b, 0);
    const shares = row.every((each) => each >= 0) && Math.abs(sum - 1) < 0.01 ? row : softmax(row);
    const order = shares.map((share, index) => [share, index]).sort((a, b) => b[0] - a[0]).slice(0, MAX_BARS);
    $("bars").append(...order.map(([share, index], place) => bar(String(index), share, (100 * share).toFixed(1) + " %", place === 0)));
  }
  $("raw").hidden = scores;
  $("raw").textContent = JSON.stringify(outputs, null, 1).slice(0, 20000);
}

function showAnswers(answers, took, asked) {
  if (asked !== choices) return;
  $("answer").hidden = false;
  $("took").textContent = took.toFixed(took < 10 ? 1 : 0) + " ms";
  const tops = answers.map((each) => each.top || each.next), known = tops.every((top) => top && top.length);
  const named = (each, before, best) =>
    bar(before + (each.name || each.text || String(each.class)), each.probability, (100 * each.probability).toFixed(1) + " %", best);
  // Of one row what else it may be; of several the likeliest of each.
  const bars = tops.length === 1 ? (each) => each[0].map((one, place) => named(one, "", place === 0))
    : (each) => each.slice(0, MAX_ROWS).map((top, row) => named(top[0], `${row + 1}: `, false));
  $("bars").replaceChildren(...(known ? bars(tops) : []));
  $("raw").hidden = known && tops.length <= MAX_ROWS;
  $("raw").textContent = JSON.stringify(answers, null, 1).slice(0, 20000);
}

$("compare").addEventListener("click", () => guard(async () => {
  const input = $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const began = performance.now(), asked = choices;
  const answer = await (await call("/v1/embeddings", JSON.stringify({model: model.name, input}))).json();
  if (asked !== choices) return;
  const vectors = answer.data.map((each) => each.embedding);
  $("answer").hidden = false;
  $("raw").hidden = true;
  $("took").textContent = (performance.now() - began).toFixed(0) + " ms";
  $("bars").replaceChildren(...vectors.slice(1).map((vector, index) => {
    const likeness = vector.reduce((sum, value, i) => sum + value * vectors[0][i], 0);
    return bar(input[index + 1], Math.max(0, likeness), likeness.toFixed(3), false);
  }));
}));

// -- text

function paragraph(kind) {
  const made = document.createElement("p");
  made.className = kind;
  $("talk").append(made);
  return made;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ;) {
    const {value, done} = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
  }
}

async function say() {
  const text = $("prompt").value;
  if (!text.trim() || running) return;
  const chat = model.can.includes("chat");
  const order = {model: model.name, stream: true, max_tokens: Number($("tokens").value), temperature: Number($("heat").value)};
  $("prompt").value = "";
  paragraph("mine").textContent = text;
  const said = talk; // the next model begins another one
  said.push({role: "user", content: text});
  Object.assign(order, chat ? {messages: said} : {prompt: text});
  running = new AbortController();
  $("stop").hidden = false;
  const theirs = paragraph("theirs");
  try {
    const answer = await call(chat ? "/v1/chat/completions" : "/v1/completions", JSON.stringify(order), "application/json", running.signal);
    for await (const event of events(answer)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (choice) theirs.textContent += (chat ? choice.delta.content : choice.text) || "";
    }
  } finally {
    said.push({role: "assistant", content: theirs.textContent});
    running = null;
    $("stop").hidden = true;
  }
}

$("say").addEventListener("submit", (event) => { event.preventDefault(); guard(say); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); guard(say); }
});
$("stop").addEventListener("click", () => running && running.abort());
$("pick").addEventListener("change", () => guard(() => choose($("pick").value)));
$("key-row").addEventListener("submit", (event) => { event.preventDefault(); key = $("key").value.trim(); guard(begin); });
guard(begin);
