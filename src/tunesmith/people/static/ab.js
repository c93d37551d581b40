// The blind comparison: two answers to one prompt, one choice. Nothing here knows who wrote which.

import { drawer } from "/static/api.js";
import { byId, Page, showText } from "/static/page.js";

const MARKS = "tunesmith-marks";
const SIDES = ["left", "right"];

function choose(page, choice) {
  if (!page.item) return;
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.classList.toggle("chosen", button.dataset.choice === choice);
  }
  page.send({ choice });
}

/** Both sides with their differences marked in one neutral colour: neither counts as the original. */
function showMarks(item, marks) {
  for (const side of SIDES) {
    const spans = marks[side] ?? [];
    // Marks that do not spell the answer are not shown in its place.
    if (item[side].trim() === "" || spans.map((span) => span.text).join("") !== item[side]) continue;
    const pieces = spans.map((span) => {
      if (span.kind === "equal") return document.createTextNode(span.text);
      const mark = document.createElement("mark");
      mark.textContent = span.text;
      return mark;
    });
    byId(side).replaceChildren(...pieces);
  }
}

async function showAnswers(page) {
  const item = page.item;
  const isMarked = drawer.get(MARKS) === "yes";
  byId("marks").setAttribute("aria-pressed", String(isMarked));
  for (const side of SIDES) showText(byId(side), item[side]);
  if (!isMarked) return;
  const marks = await page.marks();
  if (page.item?.id !== item.id || drawer.get(MARKS) !== "yes") return;
  if (marks) showMarks(item, marks);
  else page.announce("The differences could not be fetched.");
}

function toggleMarks(page) {
  if (!page.item) return;
  drawer.set(MARKS, drawer.get(MARKS) === "yes" ? "no" : "yes");
  showAnswers(page);
}

const view = {
  kind: "ab",
  things: ["Pair", "pairs"],
  referenceFirst: false,
  draft: () => ({ note: byId("note").value }),
  show() {
    for (const button of document.querySelectorAll(".chosen")) button.classList.remove("chosen");
    showAnswers(page);
  },
  keys: (page) => ({
    1: () => choose(page, "left"),
    2: () => choose(page, "right"),
    0: () => choose(page, "tie"),
    t: () => choose(page, "tie"),
    s: () => choose(page, "skip"),
    d: () => toggleMarks(page),
  }),
  prepare(page) {
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.addEventListener("click", () => choose(page, button.dataset.choice));
    }
    byId("marks").addEventListener("click", () => toggleMarks(page));
  },
};

const page = new Page(view);
page.start();
