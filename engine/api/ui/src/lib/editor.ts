// The editor is a file of its own, which only pages that have an expression to edit load. The document names it.
import { BASE } from "./api";

type EditorModule = typeof import("../editor/editor");

let loading: Promise<EditorModule> | null = null;

export function loadEditor(): Promise<EditorModule> {
  const path = document.getElementById("app")?.dataset.editor ?? "";
  loading ??= import(/* the name changes with the content */ `${BASE}${path}`) as Promise<EditorModule>;
  loading.catch(() => (loading = null));
  return loading;
}
