"""`img2img compare`: variants of a recipe, trained, scored and set side by side."""
