// Starts the page that the document names, and what every page has: banner, keys, header.
import { render } from "preact";
import { Shell, Tools } from "./components/shell";
import { AlertsPage, RulesPage } from "./pages/alerts";
import { DiscoveryPage } from "./pages/discovery";
import { FleetPage } from "./pages/fleet";
import { OverviewPage } from "./pages/overview";
import { QueryPage } from "./pages/query";
import { AgentPage, ConfigPage, FlagsPage, StatusPage } from "./pages/simple";
import { StoragePage } from "./pages/storage";
import { TargetPage } from "./pages/target";
import { TargetsPage } from "./pages/targets";
import { applyTheme } from "./lib/settings";

const PAGES: Record<string, () => preact.JSX.Element> = {
  agent: AgentPage,
  alerts: AlertsPage,
  config: ConfigPage,
  discovery: DiscoveryPage,
  flags: FlagsPage,
  fleet: FleetPage,
  overview: OverviewPage,
  query: QueryPage,
  rules: RulesPage,
  status: StatusPage,
  storage: StoragePage,
  target: TargetPage,
  targets: TargetsPage,
};

applyTheme();
const app = document.getElementById("app");
const tools = document.getElementById("tools");
if (tools) render(<Tools />, tools);
if (app) {
  const Page = Object.hasOwn(PAGES, app.dataset.page ?? "") ? PAGES[app.dataset.page!] : undefined;
  app.replaceChildren();
  render(<Shell>{Page ? <Page /> : null}</Shell>, app);
}
