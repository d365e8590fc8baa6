"""What the pages share: state, resources, charts, theme and browser components."""
