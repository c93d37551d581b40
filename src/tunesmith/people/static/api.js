// Talking with the server. An act is kept in this browser until the server has it, so that neither a closed
// tab nor a killed server loses it; the act's id lets the server store it once however often it arrives.

const WAITS_MS = [400, 1000, 2000, 3000];
const PATIENCE_MS = 15000;

/** The server answered and will not take it: asking again would change nothing. */
export class Refused extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

/** Nobody took it, but asking again may help. `reason` is "away", "locked" or "failed". */
class Unreachable extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** One request; throws `Unreachable` or `Refused`. */
async function ask(path, body) {
  const options = { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE_MS) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  let answer;
  try {
    response = await fetch(path, options);
    answer = await response.json().catch(() => null);
  } catch {
    throw new Unreachable("away");
  }
  if (response.status === 403) throw new Unreachable("locked");
  if (response.status >= 500) throw new Unreachable("failed");
  if (response.ok && answer === null) throw new Unreachable("away");
  if (!response.ok) {
    throw new Refused(answer?.error ?? `the server answered ${response.status}`, answer?.hint ?? "");
  }
  return answer;
}

/** Text under a key: in the browser's store where there is one, else for as long as the page is open. */
class Drawer {
  #memory = new Map();

  get(key) {
    try {
      return localStorage.getItem(key) ?? this.#memory.get(key) ?? null;
    } catch {
      return this.#memory.get(key) ?? null;
    }
  }

  set(key, text) {
    try {
      localStorage.setItem(key, text);
    } catch {
      this.#memory.set(key, text);
    }
  }

  remove(key) {
    this.#memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch {
      // Without a store there is nothing to remove.
    }
  }

  keys() {
    try {
      return [...new Set([...this.#memory.keys(), ...Object.keys(localStorage)])];
    } catch {
      return [...this.#memory.keys()];
    }
  }
}

export const drawer = new Drawer();

/** Acts on their way to the server. One key an act, so that two tabs never overwrite each other's. */
export class Mailbox {
  #prefix;
  #onTrouble;
  #wake = () => {};

  /**
   * @param {string} kind "ab" or "rate": acts of one kind are never sent to the other's server.
   * @param {(reason: "away" | "locked" | "failed" | null) => void} onTrouble told at each failed try, and with null after.
   */
  constructor(kind, onTrouble) {
    this.#prefix = `tunesmith-unsent-${kind}-`;
    this.#onTrouble = onTrouble;
    addEventListener("online", () => this.retryNow());
  }

  /** Keep an act until `deliver` has brought it to the server. */
  keep(path, body) {
    drawer.set(this.#prefix + body.act_id, JSON.stringify({ path, body, at: Date.now() }));
  }

  /** How many acts the server does not have yet. */
  get waiting() {
    return this.#entries().length;
  }

  /** Bring all kept acts to the server, the oldest first, for as long as it takes. An act it refuses is let go. */
  async deliver() {
    let refusal = null;
    for (const { key, path, body } of this.#entries()) {
      try {
        await this.#patiently(() => ask(path, body));
      } catch (error) {
        refusal = error;
      }
      drawer.remove(key);
    }
    if (refusal) throw refusal;
  }

  /** The state of one rater, asked for until it comes. */
  state(rater) {
    return this.#patiently(() => ask(`/api/state?rater=${encodeURIComponent(rater)}`));
  }

  /** Word differences of one item, or null where they cannot be had now. */
  async marks(item, rater) {
    try {
      return await ask(`/api/marks?item=${encodeURIComponent(item)}&rater=${encodeURIComponent(rater)}`);
    } catch {
      return null;
    }
  }

  /** End the present pause between two tries. */
  retryNow() {
    this.#wake();
  }

  #entries() {
    const entries = [];
    for (const key of drawer.keys().filter((name) => name.startsWith(this.#prefix))) {
      try {
        entries.push({ key, ...JSON.parse(drawer.get(key)) });
      } catch {
        drawer.remove(key);
      }
    }
    return entries.sort((one, other) => one.at - other.at);
  }

  async #patiently(request) {
    for (let failed = 0; ; failed += 1) {
      try {
        const answer = await request();
        this.#onTrouble(null);
        return answer;
      } catch (error) {
        if (!(error instanceof Unreachable)) {
          this.#onTrouble(null);
          throw error;
        }
        this.#onTrouble(error.reason);
        await this.#pause(WAITS_MS[Math.min(failed, WAITS_MS.length - 1)]);
      }
    }
  }

  #pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
