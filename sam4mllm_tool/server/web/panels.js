// What the page says about a result in words: objects, dialogue, trace, and cards of the history and the comparison.

import {countPixels, drawMasks, listPoints} from "./masks.js";

const percent = (share) => share === null || share === undefined ? "unknown" : `${Math.round(100 * share)} %`;

function item(...parts) {
  const node = document.createElement("li");
  node.append(...parts);
  return node;
}

function bold(text) {
  const node = document.createElement("b");
  node.textContent = text;
  return node;
}

export function describe(result) {
  const count = result.objects.length;
  if (!count) return result.abstained ? "not sure enough" : `no such object, confidence ${percent(result.confidence)}`;
  return `${count} ${count === 1 ? "object" : "objects"}, confidence ${percent(result.confidence)}`;
}

export function showObjects(list, result) {
  list.replaceChildren(...result.objects.map((each) => {
    const box = each.box.map(Math.round).join(", ");
    return item(`box ${box}; ${countPixels(each).toLocaleString("en")} pixels; confidence ${percent(each.confidence)}; score ${each.score.toFixed(2)}`);
  }));
  if (!result.objects.length) list.replaceChildren(item(describe(result)));
}

/** Show what was asked and answered: words as they were, answers about points with the sureness of each. */
export function showDialogue(list, result) {
  const turns = [];
  for (const {role, text} of result.turns) {
    const shown = text || "(nothing)";
    if (role === "assistant" && turns.length) turns.at(-1).append(document.createElement("br"), bold("Model: "), shown);
    else turns.push(item(bold(role === "assistant" ? "Model: " : role === "user" ? "Question: " : "Setting: "), shown));
  }
  const points = listPoints(result);
  if (points.length) {
    const on = points.filter(({label}) => label === 1).length;
    turns.push(item(bold("Points: "), `${on} on the object, ${points.length - on} off it: `,
      points.map(({x, y, label, confidence}) => `(${Math.round(x)}, ${Math.round(y)}) ${label ? "on" : "off"} ${percent(confidence)}`).join("; ")));
  }
  turns.forEach((node, index) => { node.style.animationDelay = `${Math.min(index, 20) * 0.12}s`; });
  list.replaceChildren(...turns);
}

/** Show what was said about an image, [{role, text}]; the newest line stays in view. */
export function showConversation(log, said) {
  log.replaceChildren(...said.map(({role, text}) => {
    const line = document.createElement("p");
    line.append(bold(role === "user" ? "You: " : "sam4mllm: "), text);
    return line;
  }));
  log.hidden = !said.length;
  log.scrollTop = log.scrollHeight;
}

export function formatTrace({models, dialect, questions, rounds, seconds, tokens, notes, warnings, id, image}) {
  return JSON.stringify({id, image, models, dialect, questions, rounds, seconds, tokens, notes, warnings}, null, 2);
}

/** A card that shows a result small; a click opens it. */
export function makeCard(source, result, title, open) {
  const card = document.createElement("button"), canvas = document.createElement("canvas"), text = document.createElement("span");
  card.type = "button";
  card.className = "card";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Mask of ${result.expression}`);
  const marked = document.createElement("canvas");
  drawMasks(marked, result, 0.7);
  canvas.width = marked.width;
  canvas.height = marked.height;
  const image = new Image();
  image.onload = () => {
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.getContext("2d").drawImage(marked, 0, 0);
  };
  image.src = source;
  text.textContent = `${title}: ${describe(result)}`;
  card.append(canvas, text);
  card.onclick = open;
  return card;
}
