// What both pages share: the rater's name, one item after the other, keys, dialogs, and what is saved.
// Texts of models and users reach the page through `textContent` only.

import { drawer, Mailbox, Refused } from "/static/api.js";

const NAME = "tunesmith-rater";
const TROUBLES = {
  away: "The server does not answer. It may have been stopped: start it again with the same command.",
  locked: "The server does not know this page any more; it was most likely started again. Open the link it printed.",
  failed: "The server is there but cannot work. Most often its disk is full.",
};
const KEPT = "What you did last is kept in this browser and is sent by itself.";

export const byId = (id) => document.getElementById(id);

/** Show a text as it is; one that has nothing to see is said to be so. */
export function showText(node, text) {
  const remark = text === "" ? "(empty answer)" : text.trim() === "" ? "(only white space)" : "";
  node.classList.toggle("remark", remark !== "");
  node.textContent = remark || text;
}

/** Fold a text that is too tall, or show it whole again. */
function fold(isFolded) {
  const prompt = byId("prompt");
  prompt.classList.toggle("folded", isFolded);
  const isTall = prompt.scrollHeight > prompt.clientHeight + 4;
  byId("unfold").hidden = isFolded && !isTall;
  byId("unfold").textContent = isFolded ? "Show the whole prompt" : "Show less";
  byId("unfold").setAttribute("aria-expanded", String(!isFolded));
}

/**
 * One page at work. The view of a kind says what differs:
 * `kind`, `things` (one and many), `referenceFirst`, `show(item, draft)`, `draft()`, `keys(page)`, `prepare(page)`.
 */
export class Page {
  #view;
  #mailbox;
  #state = null;
  #trouble = null;
  #notice = "";
  #busy = false;
  #goesOn = false;
  #greeted = false;
  #given = new Map();
  #keys;
  rater = "";

  constructor(view) {
    this.#view = view;
    this.#mailbox = new Mailbox(view.kind, (reason) => this.#tell(reason));
    this.#keys = { ...this.#sharedKeys(), ...view.keys(this) };
    this.#listen();
    view.prepare(this);
  }

  /** Begin with the name this browser knows, or ask for one. */
  start() {
    const name = drawer.get(NAME);
    if (name) this.#begin(name);
    else this.#askName();
  }

  /** The item on the screen, or null. */
  get item() {
    return byId("work").hidden ? null : this.#state?.item;
  }

  /** Word differences of the item on the screen. */
  marks() {
    return this.#mailbox.marks(this.item.id, this.rater);
  }

  /** Send what the rater says of the item on the screen; `answer` holds the fields of its kind. */
  send(answer) {
    if (this.#busy || !this.item) return;
    const act = { rater: this.rater, item: this.item.id, act_id: crypto.randomUUID(), note: byId("note").value.trim() };
    this.#given.set(act.item, this.#view.draft());
    this.#mailbox.keep("/api/act", { ...act, ...answer });
    this.#turn("saved");
  }

  /** Take the last answer back. */
  undo() {
    if (this.#busy || !this.#state?.can_undo) return;
    this.#goesOn = true;
    this.#mailbox.keep("/api/undo", { rater: this.rater, act_id: crypto.randomUUID() });
    this.#turn("taken back");
  }

  /** Remember what is half done, for a reload. */
  saveDraft() {
    if (!this.item) return;
    const draft = { rater: this.rater, item: this.item.id, ...this.#view.draft() };
    drawer.set(`tunesmith-draft-${this.#view.kind}`, JSON.stringify(draft));
  }

  /** Say something to those who hear the page, without moving anything on it. */
  announce(text) {
    byId("live").textContent = text;
  }

  #begin(name) {
    this.rater = name;
    this.#goesOn = false;
    byId("enter").hidden = true;
    byId("rater").textContent = name;
    byId("who").hidden = false;
    this.#turn("");
  }

  #askName() {
    for (const id of ["work", "done", "way", "who"]) byId(id).hidden = true;
    byId("title").textContent = "";
    byId("enter").hidden = false;
    byId("name").value = drawer.get(NAME) ?? "";
    byId("name").focus();
  }

  /** Bring what is kept to the server, fetch what is next, show it. One turn at a time. */
  async #turn(outcome) {
    this.#setBusy(true);
    this.#notice = "";
    this.#tell(null);
    // What an earlier page left behind is news too.
    if (this.#mailbox.waiting) outcome ||= "saved";
    try {
      await this.#mailbox.deliver();
    } catch (error) {
      this.#refuse(error);
      outcome = "";
    }
    try {
      this.#state = await this.#mailbox.state(this.rater);
      drawer.set(NAME, this.rater);
      this.#setBusy(false);
      this.#render(outcome);
    } catch (error) {
      this.#refuse(error);
      this.#setBusy(false);
      this.#askName();
    }
  }

  #refuse(error) {
    if (!(error instanceof Refused)) throw error;
    this.#notice = [error.message, error.hint].filter(Boolean).join(" · ");
    this.#tell(null);
  }

  #setBusy(isBusy) {
    this.#busy = isBusy;
    byId("page").setAttribute("aria-busy", String(isBusy));
    if (isBusy) byId("saved").textContent = "";
  }

  /** Show a trouble with the server, a refusal, or nothing. */
  #tell(reason) {
    this.#trouble = reason;
    const kept = reason && this.#mailbox.waiting ? ` ${KEPT}` : "";
    const text = reason ? TROUBLES[reason] + kept : this.#notice;
    if (byId("trouble-text").textContent !== text) byId("trouble-text").textContent = text;
    byId("trouble").hidden = text === "";
    byId("retry").hidden = !reason;
    if (reason && this.#mailbox.waiting) byId("saved").textContent = "not saved yet";
  }

  #render(outcome) {
    const state = this.#state;
    document.title = `${state.title} · Tunesmith`;
    byId("title").textContent = state.title;
    byId("way").hidden = false;
    byId("bar").max = Math.max(state.total, 1);
    byId("bar").value = state.done;
    byId("count").textContent = `${state.done} of ${state.total}`;
    byId("saved").textContent = outcome;
    byId("guidelines-text").textContent = state.guidelines || "None were given for this study.";
    const isDone = !state.item || (state.stopped && !this.#goesOn);
    byId("work").hidden = isDone;
    byId("done").hidden = !isDone;
    for (const id of ["undo", "done-undo"]) byId(id).disabled = !state.can_undo;
    if (isDone) this.#showDone(outcome);
    else this.#showItem(outcome);
  }

  #showItem(outcome) {
    const { item, done, total } = this.#state;
    const place = `${this.#view.things[0]} ${Math.min(done + 1, total)} of ${total}`;
    byId("place").textContent = place;
    this.announce(`${outcome} ${place}`.trim());
    const draft = this.#draftOf(item);
    byId("note").value = draft.note ?? "";
    byId("prompt").textContent = item.prompt;
    fold(true);
    byId("show-reference").hidden = item.reference === null;
    this.#showReference();
    scrollTo(0, 0);
    this.#view.show(item, draft, this.#state);
    this.#greet();
  }

  /** What was half done or taken back, so that nothing is typed twice. */
  #draftOf(item) {
    const given = this.#given.get(item.id);
    if (given) return given;
    try {
      const draft = JSON.parse(drawer.get(`tunesmith-draft-${this.#view.kind}`)) ?? {};
      return draft.item === item.id && draft.rater === this.rater ? draft : {};
    } catch {
      return {};
    }
  }

  /** Open the guidelines once, before the first answer. */
  #greet() {
    if (this.#greeted || this.#state.done > 0 || this.#state.can_undo || !this.#state.guidelines) return;
    this.#greeted = true;
    byId("guidelines").showModal();
  }

  #showDone(outcome) {
    const { item, done, total, stopped } = this.#state;
    byId("thanks").textContent = `Thank you, ${this.rater}.`;
    byId("counts").textContent = item
      ? `You have been through ${done} of ${total} ${this.#view.things[1]}.`
      : `You have been through all ${total} ${this.#view.things[1]}.`;
    byId("stopped").textContent = stopped ?? "";
    byId("stopped").hidden = !stopped;
    byId("go-on").hidden = !item;
    this.announce(`${outcome} ${byId("thanks").textContent} ${byId("counts").textContent}`.trim());
    byId("thanks").focus();
  }

  get #showsReference() {
    const wish = drawer.get(`tunesmith-reference-${this.#view.kind}`);
    return wish === null ? this.#view.referenceFirst : wish === "yes";
  }

  #showReference() {
    const reference = this.#state.item.reference;
    const isShown = reference !== null && this.#showsReference;
    byId("reference-box").hidden = !isShown;
    byId("reference").textContent = isShown ? reference : "";
    byId("show-reference").setAttribute("aria-pressed", String(isShown));
  }

  #toggleReference() {
    if (!this.item) return;
    if (this.item.reference === null) {
      this.announce("There is no reference here.");
      return;
    }
    drawer.set(`tunesmith-reference-${this.#view.kind}`, this.#showsReference ? "no" : "yes");
    this.#showReference();
  }

  #sharedKeys() {
    return {
      u: () => this.undo(),
      n: () => byId("note").focus(),
      r: () => this.#toggleReference(),
      p: () => byId("unfold").hidden || fold(!byId("prompt").classList.contains("folded")),
      g: () => byId("guidelines").showModal(),
      "?": () => byId("help").showModal(),
    };
  }

  #listen() {
    const click = (id, act) => byId(id).addEventListener("click", act);
    click("undo", () => this.undo());
    click("done-undo", () => this.undo());
    click("show-reference", () => this.#toggleReference());
    click("show-guidelines", this.#keys.g);
    click("show-help", this.#keys["?"]);
    click("unfold", this.#keys.p);
    click("retry", () => this.#mailbox.retryNow());
    click("change", () => this.#busy || this.#askName());
    click("go-on", () => {
      this.#goesOn = true;
      this.#render("");
    });
    byId("note").addEventListener("input", () => this.saveDraft());
    byId("enter-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId("name").value.trim();
      if (name && !this.#busy) this.#begin(name);
    });
    document.addEventListener("keydown", (event) => this.#press(event));
    // A narrower window folds what was whole before.
    new ResizeObserver(() => fold(byId("prompt").classList.contains("folded"))).observe(byId("prompt"));
  }

  #press(event) {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    // Keyboards without plain digits still have digit keys.
    const key = /^Digit\d$/.test(event.code) && !event.shiftKey ? event.code.slice(5) : event.key;
    const name = key.length === 1 ? key.toLowerCase() : key;
    const open = document.querySelector("dialog[open]");
    if (open) {
      if ({ guidelines: "g", help: "?" }[open.id] === name) open.close();
      return;
    }
    const target = event.target instanceof Element ? event.target : document.body;
    if (target.matches("textarea, input[type=text]")) {
      if (key === "Escape") target.blur();
      return;
    }
    const isAllowed = this.item ? true : !byId("done").hidden && ["u", "g", "?"].includes(name);
    if (event.repeat || !isAllowed || !Object.hasOwn(this.#keys, name)) return;
    if (this.#keys[name](event) !== false) event.preventDefault();
  }
}
