// The tiers, under the path that most of the code imports them by.
export * from "../base/tiers.ts";
