"""v13.config"""
