"""One file a screen: its functions, and SCREENS, the list of them."""
