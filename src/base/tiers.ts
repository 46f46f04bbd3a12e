// The three places a byte can live.

/** Device memory, host RAM, disk. In the order of their speed. */
export const TIERS = ["gpu", "cpu", "disk"] as const;
export type Tier = (typeof TIERS)[number];
