// Type-checks a dashboard file against @grafana/schema: `node check.mjs DASHBOARD.json`, in a folder that holds
// node_modules. Prints the compiler's complaints; exit code 1 if there are any.
//
// The JSON is written into a TypeScript file as constants: the dashboard as `Dashboard`, each panel's options and custom
// field settings as those of its visualisation. A literal with a key too many, or with a wrong value, does not compile.
import fs from "node:fs";
import path from "node:path";
import ts from "typescript";

const TYPES = "./node_modules/@grafana/schema/dist/types";
const RAW = "./node_modules/@grafana/schema/dist/esm/raw";
const KINDS = {
  stat: ["stat", "StatPanelCfg", false],
  bargauge: ["bargauge", "BarGaugePanelCfg", false],
  table: ["table", "TablePanelCfg", true],
  heatmap: ["heatmap", "HeatmapPanelCfg", true],
  timeseries: ["timeseries", "TimeSeriesPanelCfg", true],
  "state-timeline": ["statetimeline", "StateTimelinePanelCfg", true],
};

const dashboard = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const lines = [
  'import type { Dashboard, Panel, RowPanel } from "@grafana/schema";',
  ...Object.entries(KINDS).map(
    ([, [folder, name]]) => `import type * as ${folder} from "${RAW}/composable/${folder}/panelcfg/x/${name}_types.gen";`,
  ),
  `import type { AnnotationTarget } from "${TYPES}/raw/dashboard/x/dashboard_types.gen";`,
  // JSON has an enum's value where the type has its member.
  "type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
];
const literal = (name, type, value) => lines.push(`export const ${name}: ${type} = ${JSON.stringify(value, null, 1)};`);
const { panels, ...head } = dashboard;
// The query of an annotation is its data source's, whose type is not in this package; Grafana's own marks have one.
head.annotations.list.forEach((annotation, i) => {
  if (annotation.datasource.type === "grafana") literal(`marks${i}`, "Plain<AnnotationTarget>", annotation.target);
  annotation.target = { refId: annotation.target.refId ?? "" };
  for (const name of ["titleFormat", "textFormat", "useValueForTime"]) delete annotation[name]; // the data source's too
});
literal("dashboard", 'Plain<Omit<Dashboard, "panels">>', head);
panels.forEach((panel, i) => {
  if (panel.type === "row") {
    literal(`row${i}`, "Plain<RowPanel>", panel);
    return;
  }
  const kind = KINDS[panel.type];
  if (!kind) throw new Error(`panel ${i}: ${panel.type}: no type is known here`);
  const { custom, ...defaults } = panel.fieldConfig.defaults;
  const bare = { ...panel, options: {}, fieldConfig: { ...panel.fieldConfig, defaults } };
  literal(`panel${i}`, "Plain<Panel>", bare);
  // Grafana fills in what a panel leaves out.
  literal(`options${i}`, `Partial<Plain<${kind[0]}.Options>>`, panel.options ?? {});
  if (kind[2] && custom) literal(`custom${i}`, `Partial<Plain<${kind[0]}.FieldConfig>>`, custom);
});
const file = path.resolve("dashboard.check.ts");
fs.writeFileSync(file, lines.join("\n"));
const program = ts.createProgram([file], {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
});
const found = ts.getPreEmitDiagnostics(program);
for (const one of found) {
  const at = one.file ? one.file.getLineAndCharacterOfPosition(one.start).line + 1 : 0;
  const near = one.file ? one.file.text.split("\n")[at - 1].trim() : "";
  console.log(`${at}: ${near}: ${ts.flattenDiagnosticMessageText(one.messageText, "\n  ")}`);
}
console.log(`${lines.length} lines, ${panels.length} panels, ${found.length} complaint(s)`);
process.exitCode = found.length ? 1 : 0;
