"""One file per screen: its functions, and SCREENS, the list of them."""
