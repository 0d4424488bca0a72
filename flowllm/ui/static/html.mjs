// The one template function of the page. Values are set as text and properties: nothing is ever parsed as HTML.
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
