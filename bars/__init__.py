"""The commands behind the bars (bars.toml): each measures one promise and prints its verdict."""
