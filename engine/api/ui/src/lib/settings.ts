// What a reader has chosen, kept in the browser. A browser that keeps nothing gets the defaults each time.

interface Settings {
  utc: boolean;
  theme: "auto" | "light" | "dark";
  /** Whether single keys do something. */
  keys: boolean;
  dense: boolean;
}

const PREFIX = "ringscrape.";

export function load(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

export function store(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // A full or forbidden store costs the choice, nothing else.
  }
}

export function loadList(name: string): string[] {
  try {
    const list: unknown = JSON.parse(load(name) ?? "[]");
    return Array.isArray(list) ? list.filter((one): one is string => typeof one === "string") : [];
  } catch {
    return [];
  }
}

const theme = load("theme");
export const settings: Settings = {
  utc: load("zone") !== "local",
  theme: theme === "light" || theme === "dark" ? theme : "auto",
  keys: load("keys") !== "off",
  dense: load("dense") === "on",
};

const listeners = new Set<() => void>();

/** Calls back after each change; returns how to end that. */
export function onSettings(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function change(part: Partial<Settings>): void {
  Object.assign(settings, part);
  store("zone", settings.utc ? null : "local");
  store("theme", settings.theme === "auto" ? null : settings.theme);
  store("keys", settings.keys ? null : "off");
  store("dense", settings.dense ? "on" : null);
  applyTheme();
  for (const listener of listeners) listener();
}

export function isDark(): boolean {
  return settings.theme === "dark" || (settings.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
}

export function applyTheme(): void {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  applyTheme();
  for (const listener of listeners) listener();
});
