// What every page has around it: the banner of what is wrong, the controls of the header, and the keys.
import { Component, type ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "../lib/api";
import { connection } from "../lib/connection";
import { clock, zone } from "../lib/format";
import { useConnection, useSettings } from "../lib/hooks";
import { change } from "../lib/settings";
import { visible } from "../lib/text";

/** How often a server that is away is tried by the banner itself. */
const RETRY_MS = 5_000;

interface Replay {
  min: number;
  max: number;
  current: number;
  state: string;
}

/** Says why the page may be old, and goes away by itself. */
function Banner() {
  const { trouble, lastSeen } = useConnection();
  const [replay, setReplay] = useState<Replay | null>(null);
  useSettings();
  useEffect(() => {
    if (trouble === null && replay === null) return;
    const look = async () => {
      try {
        const now = await get<Replay>("status/walreplay", {}, { signal: AbortSignal.timeout(4_000) });
        // That this is answered says nothing of what a page was refused.
        if (trouble === null || trouble.status === 0) connection.good();
        setReplay(now.state === "in progress" ? now : null);
      } catch (error) {
        connection.bad(error);
      }
    };
    const timer = setInterval(() => !document.hidden && void look(), RETRY_MS);
    if (trouble?.status === 503) void look();
    return () => clearInterval(timer);
  }, [trouble, replay === null]);
  if (replay) {
    return (
      <div class="banner warn" role="status">
        <strong>The server reads its log.</strong> File {replay.current} of {replay.max}; queries and rules wait until it has.
      </div>
    );
  }
  if (!trouble) return null;
  return (
    <div class="banner" role="alert">
      <strong>{trouble.status === 0 ? "The server does not answer." : "The server does not serve this page now."}</strong>{" "}
      {trouble.status === 0 ? "" : `${visible(trouble.message, 300)}. `}Last seen {clock(lastSeen)} {zone()}; it is tried again by itself.
      {trouble.status === 401 && <button type="button" onClick={() => location.reload()}>sign in</button>}
    </div>
  );
}

interface Notice {
  kind: "warn" | "down";
  title: string;
  text: string;
}

/** What is wrong with the server itself, on every page. */
function Notices() {
  const [notices, setNotices] = useState<Notice[]>([]);
  useEffect(() => {
    const look = async () => {
      if (document.hidden) return;
      try {
        const info = await get<{ reloadConfigSuccess: boolean; safeMode?: string }>("status/runtimeinfo");
        const next: Notice[] = [];
        if (!info.reloadConfigSuccess) next.push({ kind: "down", title: "The last configuration was refused; the one before it is in force.", text: "" });
        if (info.safeMode) next.push({ kind: "warn", title: "Safe mode: ", text: info.safeMode });
        setNotices(next);
        connection.good();
      } catch (error) {
        connection.bad(error);
      }
    };
    void look();
    const timer = setInterval(() => void look(), 30_000);
    return () => clearInterval(timer);
  }, []);
  return (
    <>
      {notices.map((one) => (
        <div class={`banner ${one.kind}`} key={one.title}><strong>{one.title}</strong> {visible(one.text, 1000)} {one.kind === "down" && <a href="config">Configuration</a>}</div>
      ))}
    </>
  );
}

/** A mistake of ours in drawing costs the page's content, and says so. */
class Guard extends Component<{ children: ComponentChildren }, { error: string | null }> {
  state = { error: null as string | null };
  static getDerivedStateFromError(error: unknown) {
    return { error: String(error) };
  }
  render() {
    if (this.state.error === null) return this.props.children;
    return (
      <div class="note" role="alert">
        <strong>This page cannot be drawn. </strong>{visible(this.state.error, 500)} <button type="button" onClick={() => location.reload()}>load it again</button>
      </div>
    );
  }
}

const GO: Record<string, string> = {
  o: "overview", t: "targets", q: "query", a: "alerts", r: "rules", d: "service-discovery", f: "fleet", s: "tsdb-status", c: "config",
};

/** Whether a key is meant for the field that has the focus. */
function isTyping(event: KeyboardEvent): boolean {
  const target = event.composedPath()[0];
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
}

function useKeys(help: () => void): void {
  const setting = useSettings();
  useEffect(() => {
    let go = 0;
    const onKey = (event: KeyboardEvent) => {
      if (!setting.keys || event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
      if (document.querySelector("dialog[open]")) return;
      const wasGo = Date.now() - go < 1_500;
      go = 0;
      if (wasGo && Object.hasOwn(GO, event.key)) {
        location.href = GO[event.key]!;
        return;
      }
      switch (event.key) {
        case "g":
          go = Date.now();
          return;
        case "/": {
          const search = document.querySelector<HTMLInputElement>("[data-search]");
          if (!search) return;
          search.focus();
          search.select();
          break;
        }
        case "u":
          change({ utc: !setting.utc });
          break;
        case "t":
          change({ theme: setting.theme === "auto" ? "light" : setting.theme === "light" ? "dark" : "auto" });
          break;
        case "?":
          help();
          break;
        default:
          return;
      }
      event.preventDefault();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
}

/** The controls at the right of the header. */
export function Tools() {
  const setting = useSettings();
  const dialog = useRef<HTMLDialogElement>(null);
  const help = () => dialog.current?.showModal();
  useKeys(help);
  const themes = { auto: "◐ auto", light: "☀ light", dark: "☾ dark" };
  const next = { auto: "light", light: "dark", dark: "auto" } as const;
  return (
    <>
      <button type="button" class="plain" title="zone of all times (u)" onClick={() => change({ utc: !setting.utc })}>{zone()}</button>
      <button type="button" class="plain" title="colours (t)" aria-label={`theme: ${setting.theme}`} onClick={() => change({ theme: next[setting.theme] })}>{themes[setting.theme]}</button>
      <button type="button" class="plain" aria-label="keys" title="keys (?)" onClick={help}>?</button>
      <dialog ref={dialog} aria-labelledby="keys-title">
        <h2 id="keys-title">Keys</h2>
        <dl class="facts">
          {[
            ["/", "search"], ["g and o t q a r d f s c", "overview, targets, query, alerts, rules, discovery, fleet, storage, configuration"],
            ["u", "times in UTC or local"], ["t", "colours"], ["j k Enter", "rows of targets"], ["e", "only what is down"], [".", "refresh"],
            ["Ctrl+Space", "complete an expression"], ["Alt+↑ Alt+↓", "older and newer expressions"], ["+ − ← → Shift+← Shift+→", "in a graph"], ["?", "this list"],
          ].map(([key, text]) => <><dt><kbd>{key}</kbd></dt><dd>{text}</dd></>)}
        </dl>
        <p><label class="inline"><input type="checkbox" checked={setting.keys} onChange={(event) => change({ keys: event.currentTarget.checked })} />single keys do something</label></p>
        <form method="dialog"><button>Close</button></form>
      </dialog>
    </>
  );
}

export function Shell({ children }: { children: ComponentChildren }) {
  return (
    <>
      <Banner />
      <Notices />
      <Guard>{children}</Guard>
    </>
  );
}
