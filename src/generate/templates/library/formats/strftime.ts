// datetime.strftime in the C locale and local time: a prompt must not depend on the machine's language.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];

const DAY_MS = 86_400_000;

function dayOfYear(date: Date): number {
  const [year, month, day] = [date.getFullYear(), date.getMonth(), date.getDate()];
  return Math.round((Date.UTC(year, month, day) - Date.UTC(year, 0, 1)) / DAY_MS) + 1;
}

/** The week of ISO 8601 and the year that it belongs to. */
function isoWeek(date: Date): { year: number; week: number } {
  const thursday = new Date(Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()));
  thursday.setUTCDate(thursday.getUTCDate() + 4 - (thursday.getUTCDay() || 7));
  const year = thursday.getUTCFullYear();
  return { year, week: Math.ceil(((thursday.getTime() - Date.UTC(year, 0, 1)) / DAY_MS + 1) / 7) };
}

interface Field {
  readonly value: number | string;
  /** Width and filler of a number. */
  readonly width?: number;
  readonly fill?: string;
}

const number = (value: number, width = 2, fill = "0"): Field => ({ value, width, fill });
const text = (value: string): Field => ({ value });

const COMPOSITE: Record<string, string> = {
  c: "%a %b %e %H:%M:%S %Y",
  x: "%m/%d/%y",
  X: "%H:%M:%S",
  D: "%m/%d/%y",
  F: "%Y-%m-%d",
  R: "%H:%M",
  T: "%H:%M:%S",
  r: "%I:%M:%S %p",
};

function field(date: Date, letter: string): Field | undefined {
  const hour12 = date.getHours() % 12 || 12;
  const day = date.getDay();
  switch (letter) {
    case "Y":
      return number(date.getFullYear(), 1);
    case "y":
      return number(date.getFullYear() % 100);
    case "C":
      return number(Math.floor(date.getFullYear() / 100));
    case "G":
      return number(isoWeek(date).year, 1);
    case "g":
      return number(isoWeek(date).year % 100);
    case "m":
      return number(date.getMonth() + 1);
    case "B":
      return text(MONTHS[date.getMonth()] as string);
    case "b":
    case "h":
      return text((MONTHS[date.getMonth()] as string).slice(0, 3));
    case "d":
      return number(date.getDate());
    case "e":
      return number(date.getDate(), 2, " ");
    case "j":
      return number(dayOfYear(date), 3);
    case "A":
      return text(DAYS[day] as string);
    case "a":
      return text((DAYS[day] as string).slice(0, 3));
    case "w":
      return number(day, 1);
    case "u":
      return number(day || 7, 1);
    case "U":
      return number(Math.floor((dayOfYear(date) + 6 - day) / 7));
    case "W":
      return number(Math.floor((dayOfYear(date) + 6 - ((day + 6) % 7)) / 7));
    case "V":
      return number(isoWeek(date).week);
    case "H":
      return number(date.getHours());
    case "k":
      return number(date.getHours(), 2, " ");
    case "I":
      return number(hour12);
    case "l":
      return number(hour12, 2, " ");
    case "M":
      return number(date.getMinutes());
    case "S":
      return number(date.getSeconds());
    case "f":
      return text(String(date.getMilliseconds() * 1000).padStart(6, "0"));
    case "p":
      return text(date.getHours() < 12 ? "AM" : "PM");
    case "P":
      return text(date.getHours() < 12 ? "am" : "pm");
    case "s":
      return number(Math.floor(date.getTime() / 1000), 1);
    // A datetime without a time zone has no name of one and no offset.
    case "z":
    case "Z":
      return text("");
    case "n":
      return text("\n");
    case "t":
      return text("\t");
    case "%":
      return text("%");
  }
  return undefined;
}

/** What Python writes for a format; directives that do not exist stay as they are. */
export function strftime(date: Date, format: string): string {
  return format.replace(/%([-_0^#]?)(.)/gsu, (directive, flag: string, letter: string) => {
    const composite = COMPOSITE[letter];
    if (composite !== undefined) return strftime(date, composite);
    const found = field(date, letter);
    if (found === undefined) return directive;
    const { value, width = 1, fill = "0" } = found;
    if (typeof value === "string") return flag === "^" || flag === "#" ? value.toUpperCase() : value;
    if (flag === "-") return String(value);
    return String(value).padStart(width, flag === "_" ? " " : flag === "0" ? "0" : fill);
  });
}
