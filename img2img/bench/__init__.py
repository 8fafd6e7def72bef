"""What a machine does with a recipe: its rates, the floor they set, steps and loading measured."""
