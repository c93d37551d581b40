// Rating: one answer, a few scales from 1 to 5.

import { byId, Page, showText } from "/static/page.js";

// What the lowest, the middle and the highest score of a scale mean.
const WORDS = {
  accuracy: ["wrong", "partly right", "right"],
  relevance: ["beside the point", "in part", "to the point"],
  fluency: ["hard to read", "readable", "reads well"],
  format: ["not as asked", "in part", "as asked"],
};
const OTHER_WORDS = ["low", "middle", "high"];

const scales = () => [...document.querySelectorAll("fieldset.scale")];
const chosen = (scale) => scale.querySelector("input:checked");
const current = () => document.activeElement?.closest("fieldset.scale") ?? null;

function make(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function buildStep(scale, value, word) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: scale.name, value: String(value) });
  input.setAttribute("aria-label", word ? `${value}, ${word}` : String(value));
  label.append(input, make("span", "step", String(value)));
  return label;
}

function buildScale(scale) {
  const words = WORDS[scale.name.split("_")[0]] ?? OTHER_WORDS;
  const field = make("fieldset", "scale", "");
  field.dataset.name = scale.name;
  const steps = make("div", "steps", "");
  const middle = Math.floor((scale.low + scale.high) / 2);
  const meaning = new Map([[scale.low, words[0]], [middle, words[1]], [scale.high, words[2]]]);
  for (let value = scale.low; value <= scale.high; value += 1) {
    steps.append(buildStep(scale, value, meaning.get(value)));
  }
  const ends = make("div", "ends", "");
  ends.setAttribute("aria-hidden", "true");
  ends.append(...words.map((word) => make("span", "", word)));
  field.append(make("legend", "", scale.label), make("p", "soft", scale.help), steps, ends);
  return field;
}

/** Scores by scale's name; open scales are left out. */
function scores() {
  const filled = scales().filter(chosen);
  return Object.fromEntries(filled.map((scale) => [scale.dataset.name, Number(chosen(scale).value)]));
}

function focusScale(index, options) {
  const scale = scales()[Math.max(index, 0)];
  if (scale) (chosen(scale) ?? scale.querySelector("input")).focus(options);
  else byId("send").focus(options);
}

/** Score the current scale, or the first open one, and go on to the next. */
function fill(page, value) {
  const scale = current() ?? scales().find((one) => !chosen(one));
  const step = [...(scale?.querySelectorAll("input") ?? [])].find((input) => input.value === String(value));
  if (!step) return;
  step.checked = true;
  page.saveDraft();
  focusScale(scales().indexOf(scale) + 1);
}

function move(by) {
  const here = current();
  focusScale(here ? scales().indexOf(here) + by : by < 0 ? scales().length - 1 : 0);
}

function send(page) {
  const open = scales().findIndex((scale) => !chosen(scale));
  for (const scale of scales()) scale.classList.toggle("open", !chosen(scale));
  if (open < 0) {
    page.send({ scores: scores() });
    return;
  }
  focusScale(open);
  page.announce(`${scales()[open].querySelector("legend").textContent} has no score yet.`);
}

const view = {
  kind: "rate",
  things: ["Answer", "answers"],
  referenceFirst: true,
  draft: () => ({ note: byId("note").value, scores: scores() }),
  show(item, draft, state) {
    showText(byId("answer"), item.answer);
    byId("scales").replaceChildren(...state.scales.map(buildScale));
    for (const input of document.querySelectorAll("fieldset.scale input")) {
      input.checked = draft.scores?.[input.name] === Number(input.value);
    }
    // On a narrow screen the scales are far below what is to be read first.
    focusScale(0, { preventScroll: true });
  },
  keys(page) {
    const digits = Array.from({ length: 10 }, (_, digit) => [digit, () => fill(page, digit)]);
    return {
      ...Object.fromEntries(digits),
      s: () => page.send({ scores: null }),
      ArrowUp: () => move(-1),
      ArrowDown: () => move(1),
      Backspace: () => move(-1),
      // A focused button takes Enter itself.
      Enter: (event) => (event.target instanceof HTMLButtonElement ? false : send(page)),
    };
  },
  prepare(page) {
    byId("sheet").addEventListener("submit", (event) => {
      event.preventDefault();
      send(page);
    });
    byId("sheet").addEventListener("change", () => page.saveDraft());
    byId("skip").addEventListener("click", () => page.send({ scores: null }));
  },
};

const page = new Page(view);
page.start();
