// Everything that the page asks the server, and nothing else asks it.

let token = sessionStorage.getItem("token") ?? "";

export class ServerError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export function setToken(value) { token = value.trim(); sessionStorage.setItem("token", token); }

/** Send a request; a problem of the server becomes a ServerError with its own words. */
async function send(path, options = {}) {
  const headers = {...options.headers, ...(token ? {Authorization: `Bearer ${token}`} : {})};
  let response;
  try {
    response = await fetch(path, {...options, headers});
  } catch {
    throw new ServerError(0, "the server can't be reached: is it still running?");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ServerError(response.status, problem.detail ?? problem.title ?? `the server answered ${response.status}`);
}

async function post(path, body) {
  const response = await send(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
  return response.json();
}

/** Return which models run, and which methods and formats there are. */
export async function readInfo() { return (await send("v1/info")).json(); }

/** Keep an image on the server under its file's name, and return its handle. */
export async function embed(file, name) {
  const form = new FormData();
  form.append("image", file, name);
  return (await (await send("v1/embed", {method: "POST", body: form})).json()).image;
}

/**
 * Segment an expression, and call `watch(event)` with the boxes, points and masks while they come.
 * @returns the result.
 */
export async function segment(image, expression, method, watch = () => {}) {
  return (await follow("v1/segment", {image, expressions: [expression], method, trace: true}, watch)).results[0];
}

/**
 * Say something about an image and a result of it, after what was said before, [{role, text}].
 * @returns {text, result, understood, choices}; `result` is null where nothing was segmented.
 */
export async function chat(image, text, result, earlier, watch = () => {}) {
  return follow("v1/chat", {image, text, result, earlier}, watch);
}

/** Send a request, and call `watch(event)` with what happens before its answer. */
async function follow(path, body, watch) {
  const response = await send(path, {
    method: "POST",
    headers: {"Content-Type": "application/json", Accept: "text/event-stream, application/json"},
    body: JSON.stringify(body),
  });
  if (!response.headers.get("content-type").startsWith("text/event-stream")) return response.json();
  for await (const [name, data] of readEvents(response.body)) {
    if (name === "problem") throw new ServerError(data.status, data.detail);
    if (name === "result") return data;
    watch(data);
  }
  throw new ServerError(0, "the server stopped before it answered");
}

/** Yield the server-sent events of a body as [name, data]. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: (.*)/s)));
      yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

/** Correct a result by words or clicks, [{x, y, label}] in pixels. */
export async function refine(result, change) {
  const answer = await post("v1/refine", {result, trace: true, ...change});
  return {...answer.result, understood: answer.understood, choices: answer.choices, changed: answer.changed};
}

/** Return a file of a result as {content, name}; some names follow the image's file. */
export async function readFile(result, file) {
  const answer = await send(`v1/results/${encodeURIComponent(result)}/${encodeURIComponent(file)}`);
  const named = /filename\*=utf-8''(.+)$/.exec(answer.headers.get("Content-Disposition") ?? "");
  return {content: await answer.blob(), name: named ? decodeURIComponent(named[1]) : file};
}
