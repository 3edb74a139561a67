// swift-tools-version:5.9

import PackageDescription

let package = Package(
    name: "SRKit",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "SRKit", targets: ["SRKit"])],
    targets: [
        .target(name: "CSRKit", cxxSettings: [.unsafeFlags(["-O3", "-ffp-contract=off"])]),
        .target(name: "SRKit", dependencies: ["CSRKit"]),
    ],
    cxxLanguageStandard: .cxx17
)
