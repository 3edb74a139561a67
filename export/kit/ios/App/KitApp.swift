import SwiftUI

@main
struct KitApp: App {
    var body: some Scene {
        WindowGroup { ContentView() }
    }
}
