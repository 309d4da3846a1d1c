// The page: what is chosen, asked, shown and corrected. Talks to the server through api.js alone.

import * as api from "./api.js";
import {drawMarks, drawMasks} from "./masks.js";
import {describe, formatTrace, makeCard, showConversation, showDialogue, showObjects} from "./panels.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = [
  {file: "examples/first.png", alt: "A drawn car with a teapot on it, and another teapot", expression: "all teapots"},
  {file: "examples/second.png", alt: "A drawn bus with two mugs on it", expression: "the wheels of the bus"},
];
const TRACES = [["trace.html", "how it came about, as a page"], ["trace.json", "the same for sam4mllm trace"]];
const COMPARED = ["box", "ppg", "pqpp", "adaptive"];
let image = null;  // {file, url, handle, name, said}
let result = null, cursor = null, busy = false, stream = null, focused = null, partial = null;

// Saying and waiting

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

/** Run work with the controls off, and say what went wrong. */
async function work(text, action) {
  if (busy) return;
  setBusy(true);
  say(text);
  try {
    await action();
  } catch (error) {
    if (error.status === 401) { $("access").open = true; $("token").focus(); }
    say(`That did not work: ${error.message}`, true);
  } finally {
    setBusy(false);
  }
}

/** Turn the controls off or on again; the one that had the focus gets it back. */
function setBusy(value) {
  if (value) focused = document.activeElement;
  busy = value;
  $("stage").setAttribute("aria-busy", String(value));
  for (const control of document.querySelectorAll("main button, main select")) control.disabled = value;
  if (!value && document.activeElement === document.body && focused?.isConnected) focused.focus();
}

// Images

function setImage(file, name) {
  if (!file.type.startsWith("image/")) { say(`${name} is not an image.`, true); return; }
  image = {file, url: URL.createObjectURL(file), handle: null, name, said: []};
  result = null;
  $("image").src = image.url;
  $("image").alt = `The image ${name}`;
  $("mask").width = $("mask").height = 0;
  for (const id of ["marks", "objects", "dialogue", "choices"]) $(id).replaceChildren();
  $("trace").textContent = "";
  showConversation($("conversation"), image.said);
  $("result").hidden = false;
  say(`${name} is open. Say what to segment in it.`);
  $("expression").focus();
}

async function sendImage() {
  if (!image) throw new Error("choose an image first");
  image.handle ??= await api.embed(image.file, image.name);
  return image.handle;
}

/** Ask with the image's handle; where the server has dropped the image, send it once more. */
async function withImage(ask) {
  try {
    return await ask(await sendImage());
  } catch (error) {
    if (error.status !== 404 || !image?.handle) throw error;
    image.handle = null;
    return ask(await sendImage());
  }
}

async function openExample({file, expression}) {
  const blob = await (await fetch(file)).blob();
  setImage(blob, file.split("/").pop());
  $("expression").value = expression;
}

async function startCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: true});
  } catch {
    say("The webcam can't be used: allow it in the browser, or choose a file.", true);
    return;
  }
  $("video").srcObject = stream;
  $("camera-view").hidden = false;
  $("capture").focus();
}

function stopCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  $("camera-view").hidden = true;
}

function takePicture() {
  const canvas = document.createElement("canvas");
  canvas.width = $("video").videoWidth;
  canvas.height = $("video").videoHeight;
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  canvas.toBlob((blob) => { stopCamera(); setImage(blob, "webcam.png"); }, "image/png");
}

// Results

function show(newResult, text = "") {
  result = newResult;
  drawMasks($("mask"), result);
  drawMarks($("marks"), result, $("show-points").checked);
  $("image").alt = `The image with ${describe(result)} marked: ${result.expression}`;
  showObjects($("objects"), result);
  showDialogue($("dialogue"), result);
  $("trace").textContent = formatTrace(result);
  showChoices(result.choices ?? []);
  const understood = (result.understood ?? []).map((line) => `understood: ${line}`);
  say([text || `"${result.expression}": ${describe(result)}`, ...understood, ...result.warnings].join("\n"));
}

function showChoices(choices) {
  $("choices").replaceChildren(...choices.map(({number, box}) => {
    const button = document.createElement("button"), [x, y] = box.map(Math.round);
    button.type = "button";
    button.textContent = `Use object ${number} instead, at (${x}, ${y})`;
    button.onclick = () => change({instruction: String(number)});
    return button;
  }));
}

/** Add a result to the history; its card opens it again with its image. */
function remember(kept, title) {
  const origin = image;
  const card = makeCard(origin.url, kept, title, () => {
    image = origin;
    $("image").src = origin.url;
    showConversation($("conversation"), image.said);
    $("result").hidden = false;
    show(kept);
    $("stage").focus();
  });
  $("past").hidden = false;
  $("history").prepend(card);
}

/** Show boxes, points and masks while they come. */
function watch({event, boxes, points, objects}) {
  if (event === "boxes") partial = {...emptyResult(), objects: boxes.map((box) => ({box, points: []}))};
  if (event === "points") partial = {...partial ?? emptyResult(), point_answers: points};
  if (event === "boxes" || event === "points") drawMarks($("marks"), partial, true);
  if (event === "mask") drawMasks($("mask"), {...emptyResult(), objects});
  const steps = {boxes: () => `${boxes.length} boxes; asking about points ...`, points: () => `${points.length} points; segmenting ...`};
  if (steps[event]) say(steps[event]());
}

function emptyResult() {
  return {size: {width: $("image").naturalWidth, height: $("image").naturalHeight}, objects: [], point_answers: []};
}

function ask() {
  return work("Asking the model, then the segmenter ...", async () => {
    const expression = $("expression").value, method = $("method").value;
    const answered = await withImage((handle) => api.segment(handle, expression, method, watch));
    show(answered);
    remember(answered, `${expression} (${method})`);
  });
}

function compare() {
  if (!$("expression").reportValidity()) return undefined;
  return work("Asking by each method ...", async () => {
    const expression = $("expression").value, compared = COMPARED;
    $("methods").replaceChildren();
    $("comparison").hidden = false;
    const handle = await withImage(async (kept) => kept);
    const outcomes = await Promise.allSettled(compared.map((method) => api.segment(handle, expression, method)));
    outcomes.forEach(({value, reason}, index) => {
      if (value) {
        $("methods").append(makeCard(image.url, value, compared[index], () => show(value)));
        remember(value, `${expression} (${compared[index]})`);
      } else {
        const note = document.createElement("p");
        note.textContent = `${compared[index]}: ${reason.message}`;
        $("methods").append(note);
      }
    });
    const answered = outcomes.find(({value}) => value)?.value;
    if (answered) show(answered, `"${expression}" by ${compared.length} methods; choose one to look at it.`);
  });
}

function change(correction) {
  if (!result) { say("Segment something first.", true); return undefined; }
  return work("Correcting ...", async () => {
    const corrected = await api.refine(result.id, correction);
    show(corrected);
    remember(corrected, correction.instruction ?? "corrected by a click");
  });
}

/** Say something about the image and what is shown of it. */
function talk() {
  const text = $("instruction").value.trim();
  if (!text) return undefined;
  return work("Reading it ...", async () => {
    const answer = await withImage((handle) => api.chat(handle, text, result?.id, image.said.slice(-20), watch));
    image.said.push({role: "user", text}, {role: "assistant", text: answer.text.slice(0, 2000)});
    showConversation($("conversation"), image.said);
    $("instruction").value = "";
    if (answer.result) {
      const answered = {...answer.result, understood: answer.understood, choices: answer.choices};
      show(answered);
      remember(answered, text);
    } else if (result) show(result, answer.text);
    else say(answer.text);
  });
}

/** Correct by a point, given as shares of the image. */
function clickAt(x, y, label) {
  if (!result) return undefined;
  const {width, height} = result.size, inside = (share, end) => Math.min(Math.max(share * end, 0), end - 1);
  return change({clicks: [{x: inside(x, width), y: inside(y, height), label}]});
}

const chosenLabel = () => Number(document.querySelector("input[name=label]:checked").value);

function moveCursor(event) {
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}, step = steps[event.key];
  cursor ??= [0.5, 0.5];
  if (step) cursor = cursor.map((share, axis) => Math.min(1, Math.max(0, share + step[axis] * (event.shiftKey ? 0.1 : 0.02))));
  else if (event.key === "Enter" || event.key === " ") clickAt(...cursor, chosenLabel());
  else return;
  event.preventDefault();
  $("cursor").hidden = false;
  [$("cursor").style.left, $("cursor").style.top] = cursor.map((share) => `${100 * share}%`);
}

function download() {
  if (!result) { say("Segment something first.", true); return undefined; }
  return work("Making the file ...", async () => {
    const {content, name} = await api.readFile(result.id, $("format").value), link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = name;
    link.click();
    say(`Saved ${name}.`);
  });
}

// Events

function listen() {
  $("file").addEventListener("change", () => { if ($("file").files[0]) setImage($("file").files[0], $("file").files[0].name); });
  document.addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
    if (pasted) { event.preventDefault(); setImage(pasted, "pasted image"); }
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) setImage(file, file.name);
  });
  $("camera").onclick = startCamera;
  $("camera-stop").onclick = stopCamera;
  $("capture").onclick = takePicture;
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  $("compare").onclick = compare;
  $("chat").addEventListener("submit", (event) => { event.preventDefault(); talk(); });
  for (const button of document.querySelectorAll("[data-instruction]")) button.onclick = () => change({instruction: button.dataset.instruction});
  $("save").addEventListener("submit", (event) => { event.preventDefault(); download(); });
  $("show-points").addEventListener("change", () => { if (result) drawMarks($("marks"), result, $("show-points").checked); });
  $("stage").addEventListener("click", (event) => {
    const box = $("image").getBoundingClientRect();
    clickAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, event.shiftKey ? 0 : chosenLabel());
  });
  $("stage").addEventListener("keydown", moveCursor);
  $("stage").addEventListener("blur", () => { $("cursor").hidden = true; });
  $("token").addEventListener("change", () => { api.setToken($("token").value); begin(); });
}

/** Say which models run, once they are loaded. */
async function begin() {
  for (;;) {
    try {
      const info = await api.readInfo();
      $("method").replaceChildren(...info.methods.map((name) => new Option(name, name, name === info.method, name === info.method)));
      $("format").replaceChildren(...Object.entries(info.files).flatMap(([format, files]) =>
        files.map((name) => new Option(`${name}: ${info.outputs[format]}`, name))), ...TRACES.map(([name, text]) => new Option(`${name}: ${text}`, name)));
      $("models").textContent = `MLLM ${info.mllm}, segmenter ${info.segmenter}`;
      $("notice").hidden = ![info.mllm, info.segmenter].includes("embedded");
      return;
    } catch (error) {
      $("models").textContent = error.message;
      if (error.status === 401) { $("access").open = true; return; }
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

$("examples").append(...EXAMPLES.map((example) => {
  const button = document.createElement("button"), picture = new Image();
  button.type = "button";
  button.className = "example";
  picture.src = example.file;
  picture.alt = example.alt;
  button.append(picture, example.expression);
  button.onclick = () => openExample(example);
  return button;
}));
listen();
begin();
