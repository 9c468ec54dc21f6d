"""How the demo page looks: gradio's theme, light and dark. What a theme can't say is in demo.css."""

from typing import Any

FONT = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]

# gradio's own greys and its teal behind white are too pale to read (WCAG's 4.5 : 1)
COLOURS = {
    "body_background_fill": "#fbfaf8",
    "body_background_fill_dark": "#14171a",
    "body_text_color": "#1d2126",
    "body_text_color_dark": "#e8eaec",
    "body_text_color_subdued": "#5b636d",
    "body_text_color_subdued_dark": "#a2abb4",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#1c2024",
    "block_info_text_color": "#5b636d",
    "block_info_text_color_dark": "#a2abb4",
    "block_label_text_color": "#5b636d",
    "block_label_text_color_dark": "#a2abb4",
    "block_title_text_color": "#1d2126",
    "block_title_text_color_dark": "#e8eaec",
    "border_color_primary": "#d5d8dc",
    "border_color_primary_dark": "#3a4148",
    "color_accent": "#0b6a63",
    "slider_color": "#0b6a63",
    "slider_color_dark": "#5fd0c1",
    "button_primary_background_fill": "#0b6a63",
    "button_primary_background_fill_hover": "#0a5650",
    "button_primary_background_fill_dark": "#5fd0c1",
    "button_primary_background_fill_hover_dark": "#8be0d4",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#06201d",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_dark": "#1c2024",
    "button_secondary_border_color": "#d5d8dc",
    "button_secondary_border_color_dark": "#3a4148",
    "button_cancel_background_fill": "#ffffff",
    "button_cancel_background_fill_dark": "#1c2024",
    "button_cancel_text_color": "#9b1c1c",
    "button_cancel_text_color_dark": "#ffb4ab",
    "button_cancel_border_color": "#9b1c1c",
    "button_cancel_border_color_dark": "#ffb4ab",
    "button_border_width": "1px",
    "checkbox_background_color_selected": "#0b6a63",
    "checkbox_background_color_selected_dark": "#5fd0c1",
    "checkbox_border_color_selected": "#0b6a63",
    "checkbox_border_color_selected_dark": "#5fd0c1",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#14171a",
    "checkbox_label_background_fill_selected": "#e3f1ef",
    "checkbox_label_background_fill_selected_dark": "#16332f",
}


def make_theme() -> Any:
    """gradio.themes.Base in the page's fonts and colours."""
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=["ui-monospace", "monospace"]
    )
    return theme.set(**COLOURS)
