// Runs before the page is drawn, so that a dark page does not flash.
import { applyTheme } from "./lib/settings";

applyTheme();
